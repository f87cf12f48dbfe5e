"""Carries out refund orders: payments that are given back because somebody, or an event, decided so.

The decision is a row of its own transaction; Stripe is asked afterwards, and again until it has answered. Whatever
happens in between, a payment is given back once: Stripe refuses to give back more than was paid. Tokens go when
Stripe's event says that the money has gone (events).
"""

from __future__ import annotations

import logging
from datetime import timedelta
from enum import StrEnum
from typing import Literal

from django.db.models import F
from django.utils import timezone

from billing.errors import PaymentsRefused, PaymentsUnavailable
from billing.models import RefundOrder
from billing.payments.stripe import Stripe

FIRST_PAUSE = timedelta(minutes=1)
LONGEST_PAUSE = timedelta(hours=1)

logger = logging.getLogger(__name__)


class Why(StrEnum):
    """What a payment is given back for; an order's id begins with it."""

    FRAUD = "fraud"
    TWICE = "twice"


# In Stripe's words.
REASONS: dict[Why, Literal["duplicate", "fraudulent"]] = {Why.FRAUD: "fraudulent", Why.TWICE: "duplicate"}


def place(payment_intent: str, why: Why, source: str) -> None:
    """Orders a payment to be given back, once for each `source`: the id of what says so."""
    RefundOrder.objects.get_or_create(id=f"{why}:{source}", defaults={"payment_intent": payment_intent})


def carry_out(stripe: Stripe, limit: int = 100) -> list[str]:
    """Gives back what is due; a line for each order that was done. What fails is logged, and due again later."""
    due = RefundOrder.objects.filter(done_at=None, due_at__lte=timezone.now()).order_by("due_at")[:limit]
    return [f"{order}: {outcome}" for order in due if (outcome := _carry_out(stripe, order))]


def _carry_out(stripe: Stripe, order: RefundOrder) -> str:
    # Claimed until the pause is over: nobody else tries meanwhile, and a crash delays the next try by no more.
    mine = RefundOrder.objects.filter(id=order.id, done_at=None, tries=order.tries)
    pause = min(FIRST_PAUSE * 2 ** min(order.tries, 10), LONGEST_PAUSE)
    if not mine.update(tries=F("tries") + 1, due_at=timezone.now() + pause):
        return ""
    try:
        if not stripe.is_ours(order.payment_intent):
            outcome = "not ours"
        elif stripe.refund(order.payment_intent, f"{order.id}:{order.tries}", _reason(order)):
            outcome = "refunded"
        else:
            outcome = "nothing was left"
    except (PaymentsUnavailable, PaymentsRefused):
        logger.exception("%s", order)
        return ""
    RefundOrder.objects.filter(id=order.id).update(done_at=timezone.now(), outcome=outcome)
    return outcome


def _reason(order: RefundOrder) -> Literal["duplicate", "fraudulent"]:
    return REASONS[Why(order.id.partition(":")[0])]
