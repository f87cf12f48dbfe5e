"""Turns queued rows into messages: a queued row without `dispatched_at` is waiting to be sent.

`wake` is said after a job was queued; `send_waiting` publishes in batches. Both may be lost or repeated
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
from django.utils import timezone

from marketplace.celery import app
from marketplace.jobs import turns
from marketplace.jobs.models import Job, Status

CHANNEL = "kiln_jobs"
FIRE = "marketplace.jobs.tasks.fire"  # by name: the task's module brings the engine along
BATCH = 500
LOOK_SECONDS = 1.0
QUIET_SECONDS = 0.01

Publish = Callable[[Sequence[tuple[object, str]], datetime], None]

logger = logging.getLogger(__name__)
_last_wake = 0.0


def wake() -> None:
    """Tells the dispatcher that there is work, outside the transaction that queued it.

    A NOTIFY takes a lock that serialises commits, so it gets a statement of its own, at most one each
    10 ms and process; the dispatcher looks once more after that time.
    """
    global _last_wake
    now = time.monotonic()
    if now - _last_wake > QUIET_SECONDS:
        _last_wake = now
        try:
            with connection.cursor() as cursor:
                cursor.execute(f"NOTIFY {CHANNEL}")
        except DatabaseError as error:  # the job is queued all the same
            logger.warning("nobody was woken: %s", error)


def publish(jobs: Sequence[tuple[object, str]], sent: datetime) -> None:
    """Sends one message for each (job id, service class), which also says when it was `sent`."""
    with app.producer_pool.acquire(block=True) as producer, producer.batch():  # type: ignore[attr-defined]
        for job_id, service_class in jobs:
            app.send_task(
                FIRE, (str(job_id), sent.timestamp()), queue=service_class, producer=producer, declare=[], retry=False
            )


def send_waiting(now: datetime | None = None, publish: Publish = publish) -> int:
    """Publishes up to 500 waiting jobs, oldest first, marked as dispatched and with their turns; how many there were.

    The rows stay locked meanwhile, so that several dispatchers share the work. A crash between publishing and
    commit sends a message twice, which a claim makes harmless.
    """
    with transaction.atomic():
        waiting = list(
            Job.objects.select_for_update(skip_locked=True)
            .filter(Q(not_before=None) | Q(not_before__lte=Now()), status=Status.QUEUED, dispatched_at=None)
            .order_by("id")
            .only("account_id", "service_class", "quoted", "tag")[:BATCH]
        )
        if waiting:
            sent = now or timezone.now()
            publish([(job.id, job.service_class) for job in waiting], sent)
            turns.sent(waiting, sent)
    return len(waiting)


def run(stopping: Callable[[], bool]) -> None:
    """Sends waiting jobs until told to stop; a database or broker that is away is waited for."""
    while not stopping():
        try:
            with connection.cursor() as cursor:
                cursor.execute(f"LISTEN {CHANNEL}")
            while not stopping():
                while send_waiting():
                    time.sleep(QUIET_SECONDS)
                _listen(LOOK_SECONDS)
        except Exception as error:  # noqa: BLE001 - the relay outlives whatever the two servers do
            logger.warning("jobs wait, trying again in a second: %s", error)
            connection.close()
            time.sleep(1)


def _listen(seconds: float) -> None:
    """Waits for one wake-up, at most this long."""
    for _ in connection.connection.notifies(timeout=seconds, stop_after=1):
        pass
