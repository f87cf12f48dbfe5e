"""What Stripe's events do: a payment is credited, and a refund or dispute takes its Tokens back. Each event acts once.

An event and its consequences are one transaction. Events may come late, twice and in any order, so each is compared
with what is known: a payment is credited unless it already was, and a refund or dispute is written down even if its
payment is not known yet. What says nothing of the order in which it happened, as events of cards, is only noted, and
Stripe is asked afterwards (automatic.follow_cards). `charge.refunded` adds nothing to `refund.created`. Nothing here
calls Stripe: requests for it are written down (refund_orders). Not for finding lost events (reconcile).
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db import transaction

from billing import notices
from billing.errors import PaymentMismatch
from billing.models import Notice, Payer, Reversal, StripeEvent, TopUp
from billing.payments import automatic, cards, payees, payouts, refund_orders, reversals
from billing.payments.refund_orders import Reason
from billing.tokens import ledger, wallets

Document = dict[str, Any]
UNPAID = (TopUp.Status.OPEN, TopUp.Status.PROCESSING)
REFUND_VOID = {"failed", "canceled"}
# An inquiry (`warning_…`) has moved no money, nor has a dispute that was prevented.
DISPUTE_VOID = {"won", "prevented", "warning_needs_response", "warning_under_review", "warning_closed"}
DISPUTE_FINAL = {"won", "lost", "prevented", "warning_closed"}


def apply(event: Document) -> str | None:
    """Act on an event unless that was done before; return what changed, in words.

    Raises PaymentMismatch, or any other error, without leaving a trace, so that the event can be delivered again.
    """
    handler = HANDLERS.get(event["type"])
    if handler is None:
        return None
    with transaction.atomic():
        # A second delivery waits here until the first has ended.
        _, is_new = StripeEvent.objects.get_or_create(id=event["id"], defaults={"type": event["type"]})
        # Thin events only say what they are about.
        return handler(event["data"]["object"] if "data" in event else event["related_object"]) if is_new else None


def _completed(session: Document) -> str | None:
    """Handle a finished Checkout; the money may still be under way."""
    paid = session["payment_status"] == "paid"
    if paid:
        reversals.lock_payment(session["payment_intent"])
    top_up = _top_up(session["client_reference_id"])
    if top_up is None:
        return None
    if not paid:  # nor if it was thought to have expired, because nothing was heard of this Checkout
        return _ended(top_up, TopUp.Status.PROCESSING, [TopUp.Status.OPEN, TopUp.Status.EXPIRED])
    if top_up.session_id not in ("", session["id"]):
        raise PaymentMismatch(f"{top_up}: session {session['id']} is not its own")
    top_up.tax_minor = (session.get("total_details") or {}).get("amount_tax")
    return _paid(top_up, session["payment_intent"], session["amount_total"], session["currency"], session["id"])


def _charged(intent: Document) -> str | None:
    """Handle an automatic top-up's payment with the saved card. Sessions report the payments made on a page."""
    if not intent["metadata"].get("automatic"):
        return None
    reversals.lock_payment(intent["id"])
    top_up = _top_up(intent["metadata"].get("top_up"))
    return _paid(top_up, intent["id"], intent["amount_received"], intent["currency"]) if top_up else None


def _paid(top_up: TopUp, payment_intent: str, amount: int, currency: str, session_id: str = "") -> str | None:
    """Credit a payment that arrived. If saved card and page were both paid at once, order a refund of the second."""
    stated, known = (amount, currency), (top_up.price_minor, top_up.currency)
    if stated != known:
        raise PaymentMismatch(f"{top_up}: payment {payment_intent} says {stated}, it costs {known}")
    if top_up.paid_at:
        if top_up.payment_intent != payment_intent:
            refund_orders.place(payment_intent, Reason.TWICE, payment_intent)
        return None
    top_up.session_id, top_up.payment_intent = session_id or top_up.session_id, payment_intent
    with ledger.moment(top_up.owner) as now:
        _credit(top_up, now)
        reversals.follow(top_up)
    if top_up.automatic:
        automatic.paid(top_up.owner)
    return f"{top_up}: paid, Tokens credited"


def _credit(top_up: TopUp, now: datetime) -> None:
    pack, key = top_up.pack, str(top_up.id)
    wallets.purchase(top_up.owner, pack.tokens, top_up.price_minor, top_up.currency, key, reference=top_up.id)
    if pack.bonus:
        memo = f"bonus of pack {pack.name}"
        wallets.grant(top_up.owner, pack.bonus, f"bonus {key}", memo, reference=top_up.id)
    top_up.status, top_up.paid_at, top_up.failure = TopUp.Status.PAID, now, ""
    top_up.save()


def _failed(session: Document) -> str | None:
    """Handle a bank debit that failed in the end."""
    return _not_paid(session, TopUp.Status.FAILED, UNPAID, "declined")


def _expired(session: Document) -> str | None:
    return _not_paid(session, TopUp.Status.EXPIRED, [TopUp.Status.OPEN], "authentication_required")


def _not_paid(session: Document, status: TopUp.Status, before: Collection[str], code: str) -> str | None:
    """End the top-up of a Checkout, unless it is another Checkout that it is to be paid by."""
    top_up = _top_up(session["client_reference_id"])
    if top_up is None or top_up.session_id not in ("", session["id"]):
        return None
    if not top_up.automatic:
        ended = _ended(top_up, status, before)
        if ended and status == TopUp.Status.FAILED:
            notices.about(top_up, Notice.Kind.PAYMENT_FAILED, failure=code)
        return ended
    if top_up.status not in before:
        return None
    automatic.failed(top_up, code, status)
    return f"{top_up}: {status}"


def _charge_failed(intent: Document) -> str | None:
    """Handle the failure of a payment that was under way. `automatic` sees immediate failures itself."""
    error = intent["last_payment_error"] or {}
    if top_up := _under_way(intent):
        automatic.failed(top_up, error.get("decline_code") or error.get("code") or "declined")
    return f"{top_up}: failed" if top_up else None


def _charge_canceled(intent: Document) -> str | None:
    """Handle the end of a payment that was under way, and that the operator canceled at Stripe."""
    top_up = _under_way(intent)
    return _ended(top_up, TopUp.Status.EXPIRED, [TopUp.Status.PROCESSING]) if top_up else None


def _under_way(intent: Document) -> TopUp | None:
    """Return the automatic top-up that is being paid by this payment; None if it is by a later one, or not any more."""
    top_up = _top_up(intent["metadata"].get("top_up")) if intent["metadata"].get("automatic") else None
    if top_up is None or top_up.status != TopUp.Status.PROCESSING:
        return None
    return top_up if top_up.payment_intent == intent["id"] and not top_up.session_id else None


def _card_changed(method: Document) -> str | None:
    owner = cards.note(method)
    return f"account {owner}: saved cards have changed" if owner else None


def _customer_gone(customer: Document) -> str | None:
    payer = Payer.objects.filter(customer_id=customer["id"]).first()
    if payer is None:
        return None
    owner = payer.owner
    payer.delete()
    automatic.card_gone(owner)
    return f"customer {customer['id']}: gone"


def _refund(refund: Document) -> str | None:
    void = refund["status"] in REFUND_VOID
    if void and (order := (refund.get("metadata") or {}).get("order")):
        refund_orders.fail(order)
    return reversals.write_down(Reversal.Kind.REFUND, refund, standing=not void, final=void)


def _dispute(dispute: Document) -> str | None:
    status = dispute["status"]
    return reversals.write_down(Reversal.Kind.DISPUTE, dispute, status not in DISPUTE_VOID, status in DISPUTE_FINAL)


def _fraud_warned(warning: Document) -> str | None:
    """Order a refund of a probably stolen card's payment before it is disputed; the refund's event takes the Tokens."""
    intent = warning["payment_intent"]
    if not warning["actionable"] or not intent:
        return None
    refund_orders.place(intent, Reason.FRAUD, warning["id"])
    return f"payment {intent}: to be refunded as fraud"


def _top_up(reference: str | None) -> TopUp | None:
    """Return the top-up that a session or payment names, locked; None if it is not ours."""
    try:
        top_up_id = UUID(reference or "")
    except ValueError:
        return None
    return TopUp.objects.select_for_update(of=("self",)).filter(id=top_up_id).first()


def _ended(top_up: TopUp, status: TopUp.Status, before: Collection[str]) -> str | None:
    if top_up.status not in before:
        return None
    top_up.status = status
    top_up.save()
    return f"{top_up}: {status}"


HANDLERS: dict[str, Callable[[Document], str | None]] = {
    "checkout.session.completed": _completed,
    "checkout.session.async_payment_succeeded": _completed,
    "checkout.session.async_payment_failed": _failed,
    "checkout.session.expired": _expired,
    "payment_intent.succeeded": _charged,
    "payment_intent.payment_failed": _charge_failed,
    "payment_intent.canceled": _charge_canceled,
    "payment_method.attached": _card_changed,
    "payment_method.updated": _card_changed,
    "payment_method.automatically_updated": _card_changed,
    "payment_method.detached": _card_changed,
    "customer.deleted": _customer_gone,
    "refund.created": _refund,
    "refund.updated": _refund,
    "refund.failed": _refund,
    "charge.dispute.created": _dispute,
    "charge.dispute.updated": _dispute,
    "charge.dispute.closed": _dispute,
    "charge.dispute.funds_withdrawn": _dispute,
    "charge.dispute.funds_reinstated": _dispute,
    "radar.early_fraud_warning.created": _fraud_warned,
    "transfer.reversed": payouts.reversed_at_stripe,
    "v2.core.account[configuration.recipient].capability_status_updated": payees.note,
}
