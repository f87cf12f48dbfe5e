"""Refund orders: whole payments to be refunded because somebody, or an event, decided so.

The decision is a row written in its own transaction; Stripe is asked afterwards, again and again until it answers.
Whatever happens in between, a payment is refunded once: Stripe never refunds more than was paid. The Tokens are taken
when Stripe's event reports the refund (events).
"""

from __future__ import annotations

import logging
from datetime import timedelta
from enum import StrEnum
from typing import Literal

from django.db.models import F
from django.db.models.functions import Now

from billing.models import RefundOrder
from billing.payments.stripe import Stripe

FIRST_PAUSE = timedelta(minutes=1)
LONGEST_PAUSE = timedelta(hours=1)
SENT_BACK = "sent back by the bank"

logger = logging.getLogger(__name__)


class Reason(StrEnum):
    """Why a payment is refunded; an order's id begins with it."""

    FRAUD = "fraud"
    TWICE = "twice"


# The reasons in Stripe's terms.
STRIPE_REASONS: dict[Reason, Literal["duplicate", "fraudulent"]] = {
    Reason.FRAUD: "fraudulent",
    Reason.TWICE: "duplicate",
}


def place(payment_intent: str, reason: Reason, source: str) -> None:
    """Order the refund of a payment, once for each `source`: the id of the event or warning that caused it."""
    RefundOrder.objects.get_or_create(id=f"{reason}:{source}", defaults={"payment_intent": payment_intent})


def carry_out(stripe: Stripe, limit: int = 100) -> list[str]:
    """Carry out the orders that are due; return a line for each one done. Failures are logged and retried later."""
    due = RefundOrder.objects.filter(done_at=None, due_at__lte=Now()).order_by("due_at")[:limit]
    return [f"{order}: {outcome}" for order in due if (outcome := _carry_out(stripe, order))]


def _carry_out(stripe: Stripe, order: RefundOrder) -> str:
    # Claims the order until the pause is over: no other process tries meanwhile, and a crash only delays the next try.
    mine = RefundOrder.objects.filter(id=order.id, done_at=None, tries=order.tries)
    pause = min(FIRST_PAUSE * 2 ** min(order.tries, 10), LONGEST_PAUSE)
    if not mine.update(tries=F("tries") + 1, due_at=Now() + pause):
        return ""
    try:
        if not stripe.is_ours(order.payment_intent):
            outcome = "not ours"
        elif stripe.refund_rest(order, _stripe_reason(order)):
            outcome = "refunded"
        else:
            outcome = "nothing was left"
    except Exception:  # the others are not held up
        logger.exception("%s", order)
        return ""
    # The event that the bank sent it back may have come first.
    RefundOrder.objects.filter(id=order.id, done_at=None).update(done_at=Now(), outcome=outcome)
    return outcome


def fail(order_id: str) -> None:
    """Record, once, that the card's bank sent an order's money back; the operator must find another way."""
    orders = RefundOrder.objects.filter(id=order_id).exclude(outcome=SENT_BACK)
    if orders.update(done_at=Now(), outcome=SENT_BACK):
        logger.error("refund order %s: the card's bank sent the money back", order_id)


def _stripe_reason(order: RefundOrder) -> Literal["duplicate", "fraudulent"]:
    return STRIPE_REASONS[Reason(order.id.partition(":")[0])]
