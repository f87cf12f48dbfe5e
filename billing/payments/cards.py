"""Saved cards: saving one on Stripe's page, following what becomes of it, and charging it while its owner is away.

A payment takes two steps, so that a card is charged once whatever fails: a PaymentIntent is made and written down,
then confirmed. Stripe confirms a PaymentIntent once, and its status is read before anything is repeated. Not for when
to pay (automatic) or for crediting (events).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from enum import Enum
from typing import Any
from uuid import UUID

from stripe import CardError, InvalidRequestError

from billing.models import Payer, TopUp
from billing.payments.stripe import Stripe, metadata

SHOWN = ("brand", "last4", "exp_month", "exp_year")


class Answer(Enum):
    """What became of a payment: paid or processing, declined, or the bank asks to authenticate the customer."""

    PAID = "paid"
    DECLINED = "declined"
    AUTHENTICATION_REQUIRED = "authentication_required"


@dataclass(frozen=True)
class Outcome:
    """An answer with its `code`: Stripe's reason for a refusal, such as `insufficient_funds`."""

    answer: Answer
    code: str = ""


def save_page(stripe: Stripe, payer: Payer, currency: str, success_url: str, cancel_url: str) -> str:
    """Return the address of Stripe's page for saving a card; it is valid for 24 hours.

    Raises PaymentsUnavailable or PaymentsRefused.
    """
    with stripe.asking() as client:
        session = client.v1.checkout.sessions.create(
            {
                "mode": "setup",
                "currency": currency,
                "allowed_payment_method_types": ["card"],
                "customer": payer.customer_id,
                "success_url": success_url,
                "cancel_url": cancel_url,
            }
        )
    return session.url or ""


def charge(stripe: Stripe, top_up: TopUp, payer: Payer) -> Outcome:
    """Pay a top-up with the saved card while its owner is away, or find out what became of an earlier try.

    After AUTHENTICATION_REQUIRED this payment can never be made, so another one is safe. Raises PaymentsUnavailable;
    PaymentsRefused if the card cannot be used at all.
    """
    with stripe.attempt(top_up) as (client, key):
        intents = client.v1.payment_intents
        if top_up.payment_intent:
            intent = intents.retrieve(top_up.payment_intent)
        else:
            made = intents.create(_terms(top_up, payer), {"idempotency_key": f"{key}:intent"})
            TopUp.objects.filter(id=top_up.id, payment_intent="").update(payment_intent=made.id)
            top_up.refresh_from_db()
            intent = made if top_up.payment_intent == made.id else intents.retrieve(top_up.payment_intent)
        if intent.status == "requires_confirmation":
            try:
                intent = intents.confirm(intent.id, {"off_session": True}, {"idempotency_key": f"{key}:confirm"})
            except CardError:
                intent = intents.retrieve(intent.id)
        if intent.status in ("succeeded", "processing"):
            return Outcome(Answer.PAID)
        error = intent.last_payment_error
        if intent.status == "requires_payment_method" and error and error.code != "authentication_required":
            return Outcome(Answer.DECLINED, error.decline_code or error.code or "declined")
        if intent.status != "canceled":
            intents.cancel(intent.id, {}, {"idempotency_key": f"{key}:cancel"})
        return Outcome(Answer.AUTHENTICATION_REQUIRED)


def is_gone(stripe: Stripe, payer: Payer) -> bool:
    """Return whether Stripe no longer has the saved card. Raises PaymentsUnavailable or PaymentsRefused."""
    with stripe.asking() as client:
        try:
            return client.v1.payment_methods.retrieve(payer.card_id).customer != payer.customer_id
        except InvalidRequestError:
            return True


def has_expired(payer: Payer, today: date) -> bool:
    return (payer.card["exp_year"], payer.card["exp_month"]) < (today.year, today.month)


def forget(stripe: Stripe, owner: UUID) -> None:
    """Remove all of a customer's cards at Stripe. Raises PaymentsUnavailable or PaymentsRefused."""
    payer = Payer.objects.filter(owner=owner).first()
    if payer is None:
        return
    with stripe.asking() as client:
        for method in list(client.v1.customers.payment_methods.list(payer.customer_id).auto_paging_iter()):
            client.v1.payment_methods.detach(method.id)
    Payer.objects.filter(owner=owner).update(card_id="", card={})


def keep(method: dict[str, Any]) -> UUID | None:
    """Make a card that was just saved the one to pay with; return whose it is, or None if it is not our customer's."""
    if method["type"] != "card" or not method["customer"]:
        return None
    payer = Payer.objects.filter(customer_id=method["customer"]).first()
    if payer is not None:
        payer.card_id, payer.card = method["id"], {name: method["card"][name] for name in SHOWN}
        payer.save()
    return payer.owner if payer else None


def renew(method: dict[str, Any]) -> None:
    """Update what is known of a card, such as its expiry date."""
    if method["type"] == "card":
        Payer.objects.filter(card_id=method["id"]).update(card={name: method["card"][name] for name in SHOWN})


def lose(**which: str) -> UUID | None:
    """Forget the card with this `card_id`, or of this `customer_id`; return its owner if it was the one to pay with."""
    payer = Payer.objects.filter(**which).exclude(card_id="").first()
    if payer is not None:
        Payer.objects.filter(owner=payer.owner, card_id=payer.card_id).update(card_id="", card={})
    return payer.owner if payer else None


def _terms(top_up: TopUp, payer: Payer) -> Any:
    return {
        "amount": top_up.price_minor,
        "currency": top_up.currency,
        "customer": payer.customer_id,
        "payment_method": payer.card_id,
        "allowed_payment_method_types": ["card"],
        "receipt_email": top_up.order["email"],
        "metadata": metadata(top_up) | {"automatic": "true"},
    }
