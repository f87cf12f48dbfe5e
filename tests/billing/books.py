"""What the tests of billing share: proof that nothing moved, and threads that start together."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from threading import Barrier, Thread
from typing import Any

from django.db import connection, transaction

from billing.tokens import proof

HOUR = timedelta(hours=1)


def rows() -> list[Any]:
    """Every wallet, hold, transfer, lot, draw and claw-back, as text."""
    tables = ("wallet", "hold", "transfer", "lot", "draw", "clawback")
    with connection.cursor() as cursor:
        cursor.execute(" UNION ALL ".join(f"SELECT r::text FROM billing_{table} r" for table in tables) + " ORDER BY 1")
        return cursor.fetchall()


class _Undo(Exception):
    pass


@contextmanager
def nothing_moves() -> Iterator[None]:
    """Whatever was tried inside left the books as they were.

    What the database itself refused has broken its transaction; that is rolled back to where it began.
    """
    before = rows()
    try:
        with transaction.atomic():
            yield
            if connection.connection.info.transaction_status.name == "INERROR":
                raise _Undo
    except _Undo:
        pass
    assert rows() == before
    assert proof.check() == []


def together(workers: int, work: Callable[[int], Any]) -> list[Any]:
    """Runs `work(0..workers-1)` at the same moment in threads; what each returned, or the error it raised."""
    results: list[Any] = [None] * workers
    start = Barrier(workers)

    def one(number: int) -> None:
        start.wait()
        try:
            results[number] = work(number)
        except Exception as error:  # noqa: BLE001
            results[number] = error
        finally:
            connection.close()

    threads = [Thread(target=one, args=(number,)) for number in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results
