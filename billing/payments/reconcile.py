"""Reconciliation: finds events that never reached the webhook in Stripe's list, and acts on them."""

from __future__ import annotations

import logging
from datetime import timedelta

from billing import clock
from billing.models import Reconciliation, StripeEvent, TopUp
from billing.payments import automatic, events, payees, refund_orders
from billing.payments.stripe import Stripe

# Stripe lists events for 30 days. The overlap allows for clocks that differ and for events that are listed late.
LISTED = timedelta(days=30)
OVERLAP = timedelta(hours=1)

logger = logging.getLogger(__name__)


def run(stripe: Stripe) -> tuple[list[str], int]:
    """Act on events that were missed; return what was repaired, a line each, and how many events failed.

    Failures are logged, and the next run retries them. Raises PaymentsUnavailable or PaymentsRefused.
    """
    started = clock.now()
    last = Reconciliation.objects.order_by("-until").values_list("until", flat=True).first()
    since = max(last - OVERLAP, started - LISTED) if last else started - LISTED
    listed = list(stripe.events([each for each in events.HANDLERS if not each.startswith("v2.")], since))
    known = set(StripeEvent.objects.filter(id__in=[event["id"] for event in listed]).values_list("id", flat=True))
    lines, failed = [], 0
    for event in reversed(listed):
        try:
            if event["id"] not in known and (line := events.apply(event)):
                lines.append(f"{event['type']} {event['id']}: {line}")
        except Exception:
            failed += 1
            logger.exception("event %s", event["id"])
    lines += _never_opened() + refund_orders.carry_out(stripe)
    automatic.follow_cards(stripe)
    payees.follow(stripe)
    if not failed:
        Reconciliation.objects.create(until=started, seen=len(listed), repaired=len(lines))
    return lines, failed


def _never_opened() -> list[str]:
    """Expire the top-ups whose Checkout nobody was shown, once its time is over; return a line for the report.

    `automatic` ends its own.
    """
    unseen = TopUp.objects.filter(status=TopUp.Status.OPEN, session_id="", automatic=False)
    due = unseen.filter(expires_at__lt=clock.now() - OVERLAP)
    count = due.update(status=TopUp.Status.EXPIRED)
    return [f"{count} top-ups without a Checkout: expired"] if count else []
