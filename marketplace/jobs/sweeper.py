"""The repair of what crashes leave behind: dead leases, lost messages, expired holds. Safe to run twice at once."""

from __future__ import annotations

import base64
import json
import logging
from datetime import UTC, datetime, timedelta

from django.db.models.functions import Now

from marketplace.celery import SERVICE_CLASSES, app
from marketplace.jobs import lifecycle, outbox
from marketplace.jobs.models import Job, Status, Worker

# A message that was just sent may not have reached Redis yet.
IN_FLIGHT = timedelta(seconds=2)
FORGET_WORKERS_AFTER = timedelta(hours=1)

logger = logging.getLogger(__name__)


def sweep() -> dict[str, int]:
    """Repair everything once, and return how many of each kind were found."""
    found = {"dead_leases": lifecycle.expire_leases(), "expired_holds": lifecycle.expire_holds()}
    found["lost_messages"] = sum(resend_lost(name) for name in SERVICE_CLASSES)
    Worker.objects.filter(seen_at__lt=Now() - FORGET_WORKERS_AFTER).delete()
    if any(found.values()):
        logger.warning("swept: %s", found)
        outbox.wake()
    return found


def resend_lost(service_class: str) -> int:
    """Send again the waiting jobs whose message is lost, and return how many.

    Messages are taken in the order in which they were sent, so a job that was sent before the message in front has
    lost its own; if there is no message at all, every job has.
    """
    limit = message_in_front(service_class) or Now()
    lost = Job.objects.filter(
        status=Status.QUEUED, service_class=service_class, dispatched_at__lt=limit - IN_FLIGHT
    ).order_by("id")
    return lifecycle.send_again(list(lost.values_list("id", flat=True)[: outbox.BATCH]))


def message_in_front(queue: str) -> datetime | None:
    """Return when the next message to be taken was sent; None if the queue is empty."""
    with app.pool.acquire(block=True) as broker:
        message = broker.default_channel.client.lindex(queue, -1)  # type: ignore[attr-defined]
    if message is None:
        return None
    (_, sent), *_ = json.loads(base64.b64decode(json.loads(message)["body"]))
    return datetime.fromtimestamp(sent, UTC)
