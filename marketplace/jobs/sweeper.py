"""Puts right what crashes leave behind: dead leases, lost messages, expired holds. Safe to run twice at once."""

from __future__ import annotations

import logging
from datetime import timedelta

from django.utils import timezone

from billing import wallets
from marketplace.celery import SERVICE_CLASSES, app
from marketplace.jobs import lifecycle, outbox
from marketplace.jobs.models import Job, Status, Worker

# A message that was just sent may not have reached Redis yet.
IN_FLIGHT = timedelta(seconds=2)
FORGET_WORKERS_AFTER = timedelta(hours=1)

logger = logging.getLogger(__name__)


def sweep() -> dict[str, int]:
    """How many of each kind were put right."""
    found = {"dead_leases": lifecycle.expire_leases(), "expired_holds": expire_holds()}
    found["lost_messages"] = sum(resend_lost(name) for name in SERVICE_CLASSES)
    Worker.objects.filter(seen_at__lt=timezone.now() - FORGET_WORKERS_AFTER).delete()
    if any(found.values()):
        logger.warning("swept: %s", found)
        outbox.wake()
    return found


def expire_holds() -> int:
    due = wallets.due()
    for job_id in due:
        lifecycle.expire_hold(job_id)
    return len(due)


def resend_lost(service_class: str) -> int:
    """Sends again as many waiting jobs as the broker has too few messages for, oldest first.

    A job that is waiting behind others in its queue is not sent twice, however long it waits.
    """
    waiting = Job.objects.filter(
        status=Status.QUEUED, service_class=service_class, dispatched_at__lt=timezone.now() - IN_FLIGHT
    )
    count = waiting.count()
    if not count:
        return 0
    missing = count - messages(service_class)
    return (
        lifecycle.send_again(list(waiting.order_by("id").values_list("id", flat=True)[:missing])) if missing > 0 else 0
    )


def messages(queue: str) -> int:
    """How many messages the broker holds for this queue."""
    with app.pool.acquire(block=True) as broker:
        return int(broker.default_channel.client.llen(queue))  # type: ignore[attr-defined]
