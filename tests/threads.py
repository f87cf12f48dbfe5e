"""Threads that start at the same moment."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
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
