"""A periodic task's turn: never beside itself, and written down once it has finished. Not for what tasks do (tasks).

The turn is an advisory lock of the task's own database session, so a process that dies gives it up. A task that is
sent while it runs ends at once: however slow the outside world is, each task occupies one thread of the worker, which
has more threads than there are tasks, so none waits for another. A process that hangs keeps its session, so whoever
finds it silent for minutes ends that.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import wraps

from django.db import connection

from marketplace.celery import app

_TRY = "SELECT pg_try_advisory_lock(hashtext('periodic task'), hashtext(%s))"
_LET_GO = "SELECT pg_advisory_unlock(hashtext('periodic task'), hashtext(%s))"
# Between two statements a task waits for Stripe at most, which takes no minutes.
SILENT = timedelta(minutes=5)
_END_SILENT = """
SELECT pg_terminate_backend(pid) FROM pg_locks JOIN pg_stat_activity AS session USING (pid)
WHERE locktype = 'advisory' AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND classid = (hashtext('periodic task')::bigint & 4294967295)::oid
  AND objid = (hashtext(%s)::bigint & 4294967295)::oid
  AND wait_event_type = 'Client' AND state_change < clock_timestamp() - %s * interval '1 second'
"""
_FINISHED = """
INSERT INTO maintenance_periodictask (name, finished_at) VALUES (%s, clock_timestamp())
ON CONFLICT (name) DO UPDATE SET finished_at = excluded.finished_at
"""

logger = logging.getLogger(__name__)


def task(work: Callable[[], None]) -> Callable[[], None]:
    """Make a Celery task that does nothing while the same task is running anywhere.

    Tasks keep the names that they had in `marketplace.jobs`, so that messages sent before an upgrade are understood.
    """
    name = work.__name__

    @wraps(work)
    def turn() -> None:
        with _alone(name) as mine:
            if mine:
                work()
                with connection.cursor() as cursor:
                    cursor.execute(_FINISHED, [name])

    made: Callable[[], None] = app.task(name=f"marketplace.jobs.tasks.{name}")(turn)
    return made


@contextmanager
def _alone(name: str) -> Iterator[bool]:
    """Yield whether this is the only run of the task, which it stays until the end, or the end of this process."""
    with connection.cursor() as cursor:
        cursor.execute(_TRY, [name])
        (mine,) = cursor.fetchone()
        if not mine:
            cursor.execute(_END_SILENT, [name, SILENT.total_seconds()])
            if cursor.fetchall():
                logger.error("%s hangs somewhere: its session was ended", name)
    try:
        yield mine
    finally:
        if mine:
            with connection.cursor() as cursor:
                cursor.execute(_LET_GO, [name])
