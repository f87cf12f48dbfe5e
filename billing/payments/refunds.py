"""Refunds that the operator asks for: money for the unspent Tokens of one top-up.

First `take` takes the Tokens, in one transaction; then `send` asks Stripe, outside any transaction. In between, the
Tokens are gone and the money is still ours, so nothing can be spent twice; after a crash there, `send` is called
again. Stripe's event finds the reversal by its id and takes nothing more. Not for refunds that Stripe reports (events)
or for refunds of jobs (wallets).
"""

from __future__ import annotations

from uuid import UUID

from django.db import transaction
from django.db.models import QuerySet

from billing.currencies import step
from billing.errors import PaymentsRefused, RefundAboveUnspent
from billing.models import Lot, Reversal, TopUp
from billing.payments import reversals
from billing.payments.stripe import Stripe
from billing.tokens import debts, lots


def refundable(top_up: TopUp) -> int:
    """Return what the unspent Tokens cost, in the smallest unit of the currency; 0 while the top-up is disputed."""
    if not top_up.payment_intent or top_up.status == TopUp.Status.DISPUTED:
        return 0
    paid = Lot.objects.filter(transfer__reference=top_up.id, kind=Lot.Kind.PAID)
    most = min(sum(_unspent_minor(lot) for lot in paid), top_up.price_minor - top_up.refunded_minor)
    return most - most % step(top_up.currency)


def take(top_up_id: UUID, amount_minor: int, reversal_id: str) -> None:
    """Take the Tokens that this money bought, and their share of the bonus, once for this id.

    Spent Tokens of the bonus share are paid with other paid Tokens if any are left, else waived: no debt remains.
    Raises RefundAboveUnspent, without taking anything, if too few are unspent; TopUp.DoesNotExist.
    """
    with transaction.atomic():
        with reversals.reversing(top_up_id) as (top_up, now):
            if Reversal.objects.filter(id=reversal_id).exists():
                return
            if not 0 < amount_minor <= (most := refundable(top_up)) or amount_minor % step(top_up.currency):
                raise RefundAboveUnspent(most)
            Reversal.objects.create(
                id=reversal_id, kind=Reversal.Kind.REFUND, payment_intent=top_up.payment_intent,
                amount_minor=amount_minor, currency=top_up.currency, standing=True, since=now,
            )  # fmt: skip
        for debt in reversals.claw_backs(reversal_id).filter(settled_at=None):
            if debt.lot.kind == Lot.Kind.PAID:
                raise RefundAboveUnspent(most)
            debts.waive(debt.id, "a spent bonus that nothing is left to pay with")


def send(stripe: Stripe, reversal_id: str) -> str:
    """Ask Stripe to refund the money, once; return Stripe's id of the refund.

    Raises PaymentsUnavailable, after which it is called again, or PaymentsRefused, after returning the Tokens.
    """
    reversal = Reversal.objects.get(id=reversal_id)
    if reversal.stripe_id:
        return reversal.stripe_id
    if reversal.final:
        raise PaymentsRefused(f"{reversal} was refused, and its Tokens were returned")
    try:
        stripe_id = stripe.refund_amount(reversal)
    except PaymentsRefused:
        if not _void(reversal):
            return send(stripe, reversal_id)
        raise
    Reversal.objects.filter(id=reversal_id, stripe_id="").update(stripe_id=stripe_id)
    return stripe_id


def sent_back() -> QuerySet[Reversal]:
    """Return the refunds that Stripe took on, but whose money the card's bank sent back."""
    void = Reversal.objects.filter(kind=Reversal.Kind.REFUND, standing=False, final=True)
    return void.exclude(stripe_id="")


def _unspent_minor(lot: Lot) -> int:
    """Return how much money can be refunded for the lot so that its unspent Tokens cover all that is demanded."""
    now = lots.allocate(lot.wallet_id)
    left = next((each.remaining for each in now.lots if each.id == lot.id), 0)
    money, demanded = debts.demanded(lot)
    price: int = lot.price_minor or 0
    # The most money whose share of the lot, rounded down as in `debts`, is covered by what was demanded and what is
    # left.
    covered = (price * (demanded + min(left, now.balance.available) + 1) - 1) // lot.amount
    return max(0, int(min(price, covered) - money))


def _void(reversal: Reversal) -> bool:
    """Return the reversal's Tokens to the wallet, unless Stripe's event has reported the refund meanwhile."""
    with reversals.reversing(TopUp.objects.get(payment_intent=reversal.payment_intent).id) as (_, now):
        unmade = Reversal.objects.filter(id=reversal.id, stripe_id="", final=False)
        return bool(unmade.update(standing=False, until=now, final=True))
