"""Threads that start at the same moment, and settings of the database that end with them."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Barrier
from typing import Any


def together(workers: int, work: Callable[[int], Any]) -> list[Any]:
    """Runs `work(0..workers-1)` in threads at once; what each returned, or the error it raised."""
    from django.db import connection  # read before Django is set up

    start = Barrier(workers)

    def one(number: int) -> Any:
        start.wait()
        try:
            return work(number)
        except Exception as error:  # noqa: BLE001
            return error
        finally:
            connection.close()

    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(one, range(workers)))


@contextmanager
def database_setting(name: str, value: str) -> Iterator[None]:
    """Sets what this thread's session keeps, and takes it back: the pool would lend the session to another test."""
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute("SELECT set_config(%s, %s, false)", [name, value])
    try:
        yield
    finally:
        with connection.cursor() as cursor:
            cursor.execute(f"RESET {name}")
