"""Saved cards: saving one on Stripe's page, following what becomes of it, and charging it while its owner is away.

A payment takes two steps, so that a card is charged once whatever fails: a PaymentIntent is made and written down,
then confirmed. Stripe confirms a PaymentIntent once, and its status is read before anything is repeated. One that is
not to be paid any more is canceled at Stripe, which alone knows what came first. Which card is saved is asked of
Stripe: events, which come in any order, only say that it may have changed. Not for when to pay (automatic) or for
crediting (events).
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import date
from enum import Enum
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

from django.db.models import Q
from stripe import CardError, InvalidRequestError

from billing.errors import PaymentsRefused
from billing.models import Payer, TopUp
from billing.payments.stripe import MISSING, Stripe, metadata

if TYPE_CHECKING:
    from stripe import PaymentIntent, StripeClient

SHOWN = ("brand", "last4", "exp_month", "exp_year")
UNDER_WAY = ("succeeded", "processing")
AUTHENTICATION_REQUIRED = "authentication_required"


class Answer(Enum):
    """What became of a payment.

    It was made or is under way; it was declined; the bank asks to authenticate the customer; or, not having been tried,
    it can no longer be made.
    """

    PAID = "paid"
    DECLINED = "declined"
    AUTHENTICATION_REQUIRED = "authentication_required"
    WITHDRAWN = "withdrawn"


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

    After any answer but PAID this payment can never be made, so another one is safe. Raises PaymentsUnavailable;
    PaymentsRefused if the card cannot be used at all.
    """
    with stripe.attempt(top_up) as (client, key):
        intent = _intent(client, top_up, payer, key)
        if intent is None:
            return Outcome(Answer.WITHDRAWN)
        if intent.status == "requires_confirmation" and intent.payment_method == payer.card_id:
            intent = _confirm(client, intent, f"{key}:confirm")
        if intent.status in UNDER_WAY:
            return Outcome(Answer.PAID)
        if intent.status != "canceled":
            # Written down first: whoever finds the payment canceled knows why.
            TopUp.objects.filter(id=top_up.id, status=TopUp.Status.OPEN).update(failure=_failure(intent))
            if _cancel(client, intent.id) is Answer.PAID:
                return Outcome(Answer.PAID)
    top_up.refresh_from_db()
    if top_up.failure == AUTHENTICATION_REQUIRED:
        return Outcome(Answer.AUTHENTICATION_REQUIRED, top_up.failure)
    return Outcome(Answer.DECLINED if top_up.failure else Answer.WITHDRAWN, top_up.failure)


def withdraw(stripe: Stripe, top_up: TopUp) -> Answer:
    """Make sure that a top-up can no longer be paid; return PAID if it was, or is being paid, and else WITHDRAWN.

    Raises PaymentsUnavailable or PaymentsRefused.
    """
    if not (top_up.session_id or top_up.payment_intent):
        return Answer.WITHDRAWN
    with stripe.asking() as client:
        if top_up.session_id:
            return _expire(client, top_up.session_id)
        return _cancel(client, top_up.payment_intent)


def newest(stripe: Stripe, payer: Payer) -> dict[str, Any] | None:
    """Return the card that was saved last, as Stripe describes it; None if Stripe has none, or not the customer.

    Raises PaymentsUnavailable or PaymentsRefused.
    """
    try:
        with stripe.asking() as client:
            which: Any = {"type": "card", "limit": 1}
            listed = client.v1.customers.payment_methods.list(payer.customer_id, which).data
    except PaymentsRefused as error:
        if error.code != MISSING:
            raise
        return None
    return listed[0].to_dict(for_json=True) if listed else None


def keep(payer: Payer, card: dict[str, Any] | None) -> bool:
    """Make the newest card the one to pay with; return False, having changed nothing, if there was news meanwhile.

    A card older than the last one kept is none: its owner has replaced it.
    """
    values: dict[str, Any] = {"card_id": "", "card": {}}
    if card and (card["id"] == payer.card_id or card["created"] >= payer.card_created):
        shown = {name: card["card"][name] for name in SHOWN}
        values = {"card_id": card["id"], "card": shown, "card_created": card["created"]}
    known = {"customer_id": payer.customer_id, "card_id": payer.card_id, "card_news": payer.card_news}
    return bool(Payer.objects.filter(owner=payer.owner, **known).update(**values, card_news=""))


def note(method: dict[str, Any]) -> UUID | None:
    """Note that something happened to a customer's card; return whose it is, or None if it is not our customer's."""
    if method["type"] != "card":
        return None
    payer = Payer.objects.filter(Q(card_id=method["id"]) | Q(customer_id=method["customer"] or "")).first()
    if payer is not None:
        Payer.objects.filter(owner=payer.owner).update(card_news=uuid4().hex)
    return payer.owner if payer else None


def forget(stripe: Stripe, owner: UUID) -> None:
    """Remove all of a customer's cards at Stripe. Raises PaymentsUnavailable or PaymentsRefused."""
    payer = Payer.objects.filter(owner=owner).first()
    if payer is None:
        return
    try:
        with stripe.asking() as client:
            for method in list(client.v1.customers.payment_methods.list(payer.customer_id).auto_paging_iter()):
                client.v1.payment_methods.detach(method.id)
    except PaymentsRefused as error:
        if error.code != MISSING:  # else the customer is gone, and the cards with it
            raise
    Payer.objects.filter(owner=owner).update(card_id="", card={})


def has_expired(payer: Payer, today: date) -> bool:
    return (payer.card["exp_year"], payer.card["exp_month"]) < (today.year, today.month)


def _intent(client: StripeClient, top_up: TopUp, payer: Payer, key: str) -> PaymentIntent | None:
    """Return the top-up's payment, created if needed; None if Stripe has lost it, or the top-up ended meanwhile."""
    intents = client.v1.payment_intents
    if not top_up.payment_intent:
        made = intents.create(_terms(top_up, payer), {"idempotency_key": f"{key}:intent"})
        mine = TopUp.objects.filter(id=top_up.id, status=TopUp.Status.OPEN, payment_intent="")
        mine.update(payment_intent=made.id)
        top_up.refresh_from_db()
        if top_up.payment_intent == made.id:
            return made
    if not top_up.payment_intent:
        return None  # nobody will confirm the one just made
    try:
        return intents.retrieve(top_up.payment_intent)
    except InvalidRequestError as error:
        if error.code != MISSING:
            raise
        return None


def _confirm(client: StripeClient, intent: PaymentIntent, key: str) -> PaymentIntent:
    intents = client.v1.payment_intents
    try:
        return intents.confirm(intent.id, {"off_session": True}, {"idempotency_key": key})
    except (CardError, InvalidRequestError) as error:
        if isinstance(error, InvalidRequestError) and error.code != "payment_intent_unexpected_state":
            raise
        return intents.retrieve(intent.id)


def _failure(intent: PaymentIntent) -> str:
    """Return why a payment was not made, in Stripe's words; "" if it was not tried."""
    if intent.status == "requires_action":
        return AUTHENTICATION_REQUIRED
    error = intent.last_payment_error
    if error is None or error.code == AUTHENTICATION_REQUIRED:
        return AUTHENTICATION_REQUIRED if error else ""
    return error.decline_code or error.code or "declined"


def _cancel(client: StripeClient, payment_intent: str) -> Answer:
    intents = client.v1.payment_intents
    return _call_off(
        lambda: intents.cancel(payment_intent), lambda: intents.retrieve(payment_intent).status, UNDER_WAY, "canceled"
    )


def _expire(client: StripeClient, session_id: str) -> Answer:
    sessions = client.v1.checkout.sessions
    return _call_off(
        lambda: sessions.expire(session_id), lambda: sessions.retrieve(session_id).status, ("complete",), "expired"
    )


def _call_off(
    end: Callable[[], object], status: Callable[[], str | None], paid: Collection[str | None], ended: str
) -> Answer:
    """End what can be paid at Stripe, and return what Stripe says came first."""
    try:
        end()
    except InvalidRequestError as error:
        if error.code == MISSING:
            return Answer.WITHDRAWN
        found = status()
        if found in paid:
            return Answer.PAID
        if found != ended:
            raise
    return Answer.WITHDRAWN


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
