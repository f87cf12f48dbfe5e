"""The outbox, whose queued rows become messages: a queued row without `dispatched_at` is waiting to be sent.

`wake` is called after a job was queued; `send_waiting` publishes in batches. Both may be lost or repeated
without harm: the dispatcher also looks every second, and a job is claimed only once.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from datetime import datetime

from django.db import DatabaseError, connection, transaction
from django.db.models import Q
from django.db.models.functions import Now

from billing import prepared
from marketplace.celery import app
from marketplace.jobs import turns
from marketplace.jobs.models import Job, Status

CHANNEL = "kiln_jobs"
FIRE = "marketplace.jobs.tasks.fire"  # by name, since importing the task's module would import the engine
BATCH = 500
LOOK_SECONDS = 1.0
QUIET_SECONDS = 0.02

Publish = Callable[[Sequence[tuple[object, str]], datetime], None]

logger = logging.getLogger(__name__)
_last_wake = 0.0


def wake() -> None:
    """Tell the dispatcher that there is work, outside the transaction that queued it.

    A NOTIFY takes a lock that serialises commits, so it is a statement of its own, and each process sends at most one
    every 20 ms; the dispatcher looks once more after that time.
    """
    global _last_wake
    now = time.monotonic()
    if now - _last_wake > QUIET_SECONDS:
        _last_wake = now
        try:
            prepared.run("SELECT pg_notify(%(channel)s, '')", {"channel": CHANNEL})
        except DatabaseError as error:  # the job is queued anyway
            logger.warning("the dispatcher was not woken: %s", error)


def publish(jobs: Sequence[tuple[object, str]], sent: datetime) -> None:
    """Send one message for each (job id, service class), which also says when it was `sent`."""
    with app.producer_pool.acquire(block=True) as producer, producer.batch():  # type: ignore[attr-defined]
        for job_id, service_class in jobs:
            app.send_task(
                FIRE, (str(job_id), sent.timestamp()), queue=service_class, producer=producer, declare=[], retry=False
            )


def send_waiting(now: datetime | None = None, publish: Publish = publish) -> int:
    """Publish up to 500 waiting jobs, oldest first, mark them as dispatched, and return how many there were.

    The rows stay locked meanwhile, so that several dispatchers can share the work. A crash between publishing and
    commit sends a message twice, which is harmless, since a job is claimed once.
    """
    with transaction.atomic():
        waiting = list(
            Job.objects.select_for_update(skip_locked=True)
            .filter(Q(not_before=None) | Q(not_before__lte=Now()), status=Status.QUEUED, dispatched_at=None)
            .order_by("id")
            .only("account_id", "service_class", "quoted", "tag")
            .annotate(moment=Now())[:BATCH]
        )
        if waiting:
            sent = now or waiting[0].moment
            publish([(job.id, job.service_class) for job in waiting], sent)
            turns.sent(waiting, sent)
    return len(waiting)


def run(stopping: Callable[[], bool]) -> None:
    """Send waiting jobs until told to stop; if the database or broker is unavailable, wait for it."""
    while not stopping():
        try:
            with connection.cursor() as cursor:
                cursor.execute(f"LISTEN {CHANNEL}")
            while not stopping():
                while send_waiting():
                    time.sleep(QUIET_SECONDS)
                _listen(LOOK_SECONDS)
        except Exception as error:  # noqa: BLE001 - the dispatcher must survive any failure of the two servers
            logger.warning("jobs cannot be sent, retrying in a second: %s", error)
            connection.close()
            time.sleep(1)


def _listen(seconds: float) -> None:
    """Wait for one wake-up, at most this long."""
    for _ in connection.connection.notifies(timeout=seconds, stop_after=1):
        pass
