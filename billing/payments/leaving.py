"""An account that leaves for good: nothing of it can be paid any more, Stripe forgets its customer, the books stay."""

from __future__ import annotations

from dataclasses import asdict
from uuid import UUID

from django.db.models import Q

from billing.errors import PaymentsRefused
from billing.models import Month, Payee, Payer, Reversal, TopUp
from billing.payments import automatic, cards, checkout
from billing.payments.cards import Answer
from billing.payments.stripe import MISSING, Stripe

Status = TopUp.Status
NOBODY = asdict(checkout.Order(pack="", currency="", success_url="", cancel_url="", email="", body={}))


def leave(stripe: Stripe, owner: UUID) -> bool:
    """Stop automatic top-ups, withdraw open ones, and delete the customer at Stripe, with its cards.

    Return False while a payment is under way, whose end must be waited for. Raises PaymentsUnavailable or
    PaymentsRefused; call it again then.
    """
    automatic.cancel(stripe, owner)
    for top_up in TopUp.objects.filter(owner=owner, status=Status.OPEN):
        if cards.withdraw(stripe, top_up) is not Answer.PAID:
            same = {"session_id": top_up.session_id, "payment_intent": top_up.payment_intent}
            TopUp.objects.filter(id=top_up.id, status=Status.OPEN, **same).update(status=Status.EXPIRED)
    if _pending(owner):
        return False
    if payer := Payer.objects.filter(owner=owner).first():
        try:
            with stripe.asking() as client:
                client.v1.customers.delete(payer.customer_id)
        except PaymentsRefused as error:
            if error.code != MISSING:
                raise
        payer.delete()
    return True


def end_payouts(owner: UUID) -> None:
    """Forget whom Stripe pays for an owner, so that nothing more is paid out but what was ordered."""
    Payee.objects.filter(owner=owner).delete()


def has_left(owner: UUID) -> bool:
    """Return whether Stripe knows nothing of an account that must still end."""
    return not (_pending(owner) or Payer.objects.filter(owner=owner).exists())


def is_invoiced(owner: UUID) -> bool:
    """Return whether every month of an account in which money moved is closed."""
    paid = TopUp.objects.filter(owner=owner).exclude(paid_at=None)
    back = Reversal.objects.filter(payment_intent__in=paid.values("payment_intent"))
    if last := Month.objects.filter(owner=owner).order_by("-first").first():
        paid = paid.filter(paid_at__gte=last.end)
        back = back.filter(Q(since__gte=last.end) | Q(until__gte=last.end))
    return not (paid.exists() or back.exists())


def forget_person(owner: UUID) -> None:
    """Remove what top-ups say of who ordered them."""
    TopUp.objects.filter(owner=owner).update(order=NOBODY, url="")


def _pending(owner: UUID) -> bool:
    return TopUp.objects.filter(owner=owner, status__in=[Status.OPEN, Status.PROCESSING]).exists()
