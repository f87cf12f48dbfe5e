"""Payouts: matured earnings leave as money, by Stripe's transfers to its recipients (payees).

First the row: Tokens and money leave the purse in its transaction. Then Stripe is asked, again and again until it
answers; a transfer is found again by its group, the payout's id, after Stripe has forgotten the idempotency key. If
Stripe refuses, or the transfer is reversed, they return to the purse. The platform's own balance may be too low for a
while: then the payout waits.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import transaction
from django.db.models import F, Q
from django.db.models.functions import Now

from billing import clock, notices
from billing.amounts import format_money
from billing.errors import (
    IdempotencyMismatch,
    NotAPayee,
    PaymentsRefused,
    PaymentsUnavailable,
    PayoutBelowMinimum,
    UnknownCurrency,
)
from billing.models import MINT_ID, Notice, Payee, Payout, Transfer
from billing.payments.stripe import Stripe
from billing.tokens import earned, earnings, ledger, marketing, takebacks

FIRST_PAUSE = timedelta(minutes=1)
LONGEST_PAUSE = timedelta(hours=6)
# Refusals that are about our own balance, not about the payee.
OURS = {"balance_insufficient"}
NO_CAPABILITY = "insufficient_capabilities_for_transfer"

logger = logging.getLogger(__name__)


@transaction.atomic
def order(owner: UUID, currency: str, payout_id: UUID, key: str) -> tuple[Payout, bool]:
    """Order a payout of all that has matured in a currency; return it, and whether the key had ordered it before.

    Raises NotAPayee, PayoutBelowMinimum, UnknownCurrency, NoWallet or IdempotencyMismatch.
    """
    maker_id = earnings.maker_of(owner)
    marketing.weigh()
    with earnings.locked([maker_id]):
        made = Payout.objects.filter(purse__maker_id=maker_id, idempotency_key=key).select_related("purse").first()
        if made is not None:
            if made.purse.currency != currency:
                raise IdempotencyMismatch(key)
            return made, True
        payee = Payee.objects.filter(owner=owner, status=Payee.Status.ACTIVE).first()
        if payee is None:
            raise NotAPayee(owner)
        takebacks.settle([maker_id])
        found = next((each for each in earnings.purses(maker_id) if each.currency == currency), None)
        ready, money = (found.ready, found.ready_minor) if found else (0, 0)
        if money < max(1, least := minimum(currency)):
            raise PayoutBelowMinimum(currency, money, least)
        purse = earnings.take_out(maker_id, currency, ready, money)
        made = Payout.objects.create(
            id=payout_id, purse=purse, account_id=payee.account_id, amount=ready, money_minor=money, idempotency_key=key
        )
        ledger.move(maker_id, MINT_ID, ready, Transfer.Kind.PAYOUT, made.id, f"payout:{made.id}")
    return made, False


def minimum(currency: str) -> int:
    """Return the least that is paid out in a currency, in its smallest unit. Raises UnknownCurrency if none is."""
    known: dict[str, int] = settings.PAYOUT_MINIMUMS
    if currency not in known:
        raise UnknownCurrency(currency, sorted(known))
    return known[currency]


def order_monthly(new_id: Callable[[], UUID]) -> int:
    """Order the month's payout of every active payee, once in each month and purse; return how many were ordered."""
    key, done = f"month {clock.now():%Y-%m}", 0
    for owner in Payee.objects.filter(status=Payee.Status.ACTIVE).values_list("owner", flat=True):
        for each in earned.purses(owner):
            try:
                if each.ready_minor:
                    done += not order(owner, each.currency, new_id(), f"{key} {each.currency}")[1]
            except (PayoutBelowMinimum, NotAPayee, UnknownCurrency):
                continue
    return done


def carry_out(stripe: Stripe, limit: int = 100) -> int:
    """Ask Stripe for the payouts that are due; return how many were answered. Failures are logged and retried later."""
    due = Payout.objects.filter(status=Payout.Status.ORDERED, due_at__lte=Now()).order_by("due_at")
    return sum(_carry_out(stripe, payout) for payout in due.select_related("purse")[:limit])


def hurry(payout_id: UUID) -> bool:
    """Have a payout that waits tried again now; return False if Stripe has answered."""
    return bool(Payout.objects.filter(pk=payout_id, status=Payout.Status.ORDERED).update(due_at=Now()))


def reversed_at_stripe(document: dict[str, Any]) -> str | None:
    """Return to the maker what Stripe took back of a payout's transfer. For `events`."""
    payout_id = (document.get("metadata") or {}).get("payout", "")
    known = Q(transfer_id=document["id"])
    with suppress(ValueError):
        known |= Q(id=UUID(payout_id))
    payout = Payout.objects.select_related("purse").filter(known).first()
    if payout is None:
        return None
    with earnings.locked([payout.purse.maker_id]):
        payout = Payout.objects.select_related("purse").get(pk=payout.pk)
        if payout.status == Payout.Status.ORDERED:  # Stripe's answer was lost
            _paid(payout, document["id"])
        return _return(payout, document["amount_reversed"])


def _carry_out(stripe: Stripe, payout: Payout) -> bool:
    # Claims the payout until the pause is over: no other process asks meanwhile, and a crash only delays the next try.
    mine = Payout.objects.filter(pk=payout.pk, status=Payout.Status.ORDERED, tries=payout.tries)
    pause = min(FIRST_PAUSE * 2 ** min(payout.tries, 10), LONGEST_PAUSE)
    if not mine.update(tries=F("tries") + 1, due_at=Now() + pause):
        return False
    try:
        transfer_id = stripe.transfer(payout)
    except PaymentsUnavailable as error:
        logger.warning("%s: %s", payout, error)
        return False
    except PaymentsRefused as error:
        return _refused(payout, error)
    with earnings.locked([payout.purse.maker_id]):
        _paid(payout, transfer_id)
    return True


def _refused(payout: Payout, error: PaymentsRefused) -> bool:
    if error.code in OURS:
        logger.error("%s waits: %s", payout, error)
        Payout.objects.filter(pk=payout.pk, status=Payout.Status.ORDERED).update(failure=error.code)
        return False
    with earnings.locked([payout.purse.maker_id]):
        failed = {"status": Payout.Status.FAILED, "failure": error.code or str(error), "done_at": Now()}
        whole = {"back": F("amount"), "back_minor": F("money_minor")}
        if not Payout.objects.filter(pk=payout.pk, status=Payout.Status.ORDERED).update(**failed, **whole):
            return False
        _put_back(payout, payout.amount, payout.money_minor)
        notices.of_payout(payout, Notice.Kind.PAYOUT_FAILED, failure=error.code or str(error))
        payee = Payee.objects.filter(account_id=payout.account_id)
        payee.update(news="refused")  # so that Stripe is asked whether it still has the account
        if error.code == NO_CAPABILITY:
            payee.update(status=Payee.Status.INACTIVE)
    return True


def _paid(payout: Payout, transfer_id: str) -> None:
    open_ = Payout.objects.filter(pk=payout.pk, status=Payout.Status.ORDERED)
    if open_.update(status=Payout.Status.PAID, transfer_id=transfer_id, failure="", done_at=Now()):
        notices.of_payout(payout, Notice.Kind.PAYOUT_PAID)
    payout.refresh_from_db()


def _return(payout: Payout, reversed_minor: int) -> str | None:
    """Bring what returned of a paid payout up to this much money, and the same part of its Tokens, rounded down."""
    money = min(reversed_minor, payout.money_minor)
    back = payout.amount * money // payout.money_minor
    if money <= payout.back_minor:
        return None
    _put_back(payout, back - payout.back, money - payout.back_minor)
    status = Payout.Status.REVERSED if money == payout.money_minor else Payout.Status.PAID
    Payout.objects.filter(pk=payout.pk).update(back=back, back_minor=money, status=status)
    notices.of_payout(payout, Notice.Kind.PAYOUT_REVERSED, returned=format_money(money, payout.purse.currency))
    return f"{payout}: {money} of {payout.money_minor} came back"


def _put_back(payout: Payout, amount: int, money_minor: int) -> None:
    """Put Tokens and money back into a locked maker's purse, where debts that were made meanwhile are paid first."""
    maker_id = payout.purse.maker_id
    earnings.take_out(maker_id, payout.purse.currency, -amount, -money_minor)
    if amount:
        key = f"payout_return:{payout.id}:{payout.back}"
        ledger.move(MINT_ID, maker_id, amount, Transfer.Kind.PAYOUT_RETURN, payout.id, key)
    takebacks.settle([maker_id])
