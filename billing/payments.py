"""Stripe, as Kiln speaks to it: a Checkout for a top-up, webhooks that are verified, events that are listed, refunds.

With `payments_events` and `payments_reconcile`, which act on events, all that knows Stripe. A top-up's id is the
idempotency key of its Checkout: however often it is asked for, there is one to pay. Where Stripe keeps an error
under that key, the next attempt has another one; what Checkout the first may have made, nobody was told of.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from hashlib import sha256
from typing import Any, Literal
from uuid import UUID

import stripe
from django.conf import settings
from django.utils import timezone

from billing import packs
from billing.errors import (
    BadSignature,
    IdempotencyMismatch,
    PaymentInFlight,
    PaymentsRefused,
    PaymentsUnavailable,
    UnknownCurrency,
)
from billing.models import Payer, TopUp
from billing.pricing import format_tokens

# Stripe keeps an idempotency key for 24 hours and a Checkout for as long at most; less, so that a Checkout that is
# asked for again after its key was forgotten is refused because it would have expired.
OPEN_FOR = timedelta(hours=23)
TIMEOUT = 8.0
GONE_BACK = {"charge_already_refunded", "charge_disputed"}

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Order:
    """What a customer asks for; `email` gets Stripe's receipt, `body` is what a retry must repeat.

    `save_card` lets automatic top-ups use the card.
    """

    pack: str
    currency: str
    success_url: str
    cancel_url: str
    email: str
    body: dict[str, Any]
    save_card: bool = False


def buy(top_up_id: UUID, owner: UUID, order: Order, idempotency_key: str | None = None) -> tuple[TopUp, bool]:
    """A top-up with a Checkout to pay it at; and whether it is the one that this key already stands for.

    UnknownPack, UnknownCurrency, IdempotencyMismatch; PaymentsUnavailable or PaymentsRefused, and then the same call
    with the same key goes on where it stopped.
    """
    top_up = _standing(owner, order, idempotency_key)
    replayed = top_up is not None
    if top_up is None:
        top_up, replayed = _new(top_up_id, owner, order, idempotency_key)
    open_page(top_up)
    return top_up, replayed


def open_page(top_up: TopUp) -> None:
    """Gives an open top-up the page where it is paid, unless it has one. PaymentsUnavailable or PaymentsRefused."""
    if top_up.session_id or top_up.status != TopUp.Status.OPEN:
        return
    payer = payer_for(top_up.owner, top_up.order["email"]) if top_up.order.get("save_card") else None
    with attempt(top_up) as (client, key):
        session = client.v1.checkout.sessions.create(_checkout(top_up, payer), {"idempotency_key": key})
    # Only these columns, and once: the webhook that says it was paid may have come first.
    TopUp.objects.filter(id=top_up.id, session_id="").update(session_id=session.id, url=session.url or "")
    top_up.refresh_from_db()


def payer_for(owner: UUID, email: str) -> Payer:
    """The account as Stripe's customer, made where there is none yet. PaymentsUnavailable or PaymentsRefused."""
    found = Payer.objects.filter(owner=owner).first()
    if found is None:
        with asking() as client:
            terms = {"email": email, "metadata": {"account": str(owner)}}
            key = f"customer:{owner}:{sha256(email.encode()).hexdigest()}"
            customer = client.v1.customers.create(terms, {"idempotency_key": key})  # type: ignore[arg-type]
        found, _ = Payer.objects.get_or_create(owner=owner, defaults={"customer_id": customer.id})
    return found


def read_event(body: bytes, signature: str) -> dict[str, Any]:
    """A webhook's event; BadSignature unless one of the secrets signed exactly these bytes in the last 5 minutes."""
    for secret in settings.STRIPE_WEBHOOK_SECRETS:
        try:
            stripe.WebhookSignature.verify_header(body, signature, secret, stripe.Webhook.DEFAULT_TOLERANCE)
            event: dict[str, Any] = json.loads(body)
            return event
        except (stripe.SignatureVerificationError, ValueError):
            continue
    raise BadSignature("no secret of ours signed this lately")


def events(types: list[str], since: datetime) -> Iterator[dict[str, Any]]:
    """Stripe's events of these types since then, newest first. PaymentsUnavailable or PaymentsRefused."""
    with asking() as client:
        found = client.v1.events.list({"types": types, "created": {"gte": int(since.timestamp())}, "limit": 100})
        for event in found.auto_paging_iter():
            yield event.to_dict(for_json=True)


def is_ours(payment_intent: str) -> bool:
    """Whether a payment was for a top-up, also where we have not heard yet that it was paid."""
    if TopUp.objects.filter(payment_intent=payment_intent).exists():
        return True
    with asking() as client:
        metadata = client.v1.payment_intents.retrieve(payment_intent).metadata
    try:
        return TopUp.objects.filter(id=metadata["top_up"]).exists() if metadata else False
    except (KeyError, ValueError):
        return False


def refund(payment_intent: str, key: str, reason: Literal["duplicate", "fraudulent"]) -> bool:
    """Gives all that is left of a payment back; False where nothing is. PaymentsUnavailable or PaymentsRefused."""
    with asking() as client:
        try:
            client.v1.refunds.create({"payment_intent": payment_intent, "reason": reason}, {"idempotency_key": key})
        except stripe.InvalidRequestError as error:
            if error.code in GONE_BACK:
                return False
            raise
    return True


def give_back(payment_intent: str, amount_minor: int, reversal: str) -> str:
    """Refunds this much, once for this `reversal` however often and late it is asked; Stripe's id of the refund.

    PaymentsUnavailable or PaymentsRefused.
    """
    with asking() as client:
        # Stripe forgets idempotency keys after a day, but not its refunds.
        made = client.v1.refunds.list({"payment_intent": payment_intent, "limit": 100})
        for refund in made.auto_paging_iter():
            if (refund.to_dict(for_json=True).get("metadata") or {}).get("reversal") == reversal:
                return refund.id
        order: Any = {
            "payment_intent": payment_intent,
            "amount": amount_minor,
            "reason": "requested_by_customer",
            "metadata": {"reversal": reversal},
        }
        return client.v1.refunds.create(order, {"idempotency_key": f"reversal:{reversal}"}).id


def _standing(owner: UUID, order: Order, key: str | None) -> TopUp | None:
    """What the key stands for; IdempotencyMismatch where that is something else."""
    found = TopUp.objects.filter(owner=owner, idempotency_key=key).first() if key else None
    if found is not None and found.order["body"] != order.body:
        raise IdempotencyMismatch(key or "")
    return found


def _new(top_up_id: UUID, owner: UUID, order: Order, key: str | None) -> tuple[TopUp, bool]:
    pack = packs.find(order.pack)
    if order.currency not in pack.prices:
        raise UnknownCurrency(order.currency, sorted(pack.prices))
    now = timezone.now()
    made = TopUp(
        id=top_up_id, owner=owner, pack=pack, currency=order.currency, price_minor=pack.prices[order.currency],
        idempotency_key=key, created_at=now, expires_at=now + OPEN_FOR,
        order=asdict(order),
    )  # fmt: skip
    TopUp.objects.bulk_create([made], ignore_conflicts=True)  # a request with the same key may have come first
    found = _standing(owner, order, key)
    return (found, found.id != top_up_id) if found else (made, False)


def _checkout(top_up: TopUp, payer: Payer | None) -> Any:
    """The Checkout's parameters, the same ones for every call for this top-up; a `payer` saves the card."""
    order, pack = top_up.order, top_up.pack
    ours = metadata(top_up)
    bonus = f" and {format_tokens(pack.bonus)} more" if pack.bonus else ""
    price = {
        "currency": top_up.currency,
        "unit_amount": top_up.price_minor,
        "product_data": {"name": f"{format_tokens(pack.tokens)} Tokens{bonus}"},
        "tax_behavior": "inclusive",  # so that the total is the pack's price, with tax or without
    }
    return {
        "mode": "payment",
        "client_reference_id": str(top_up.id),
        "line_items": [{"price_data": price, "quantity": 1}],
        "metadata": ours,
        "payment_intent_data": {
            "metadata": ours,
            "receipt_email": order["email"],
            **({"setup_future_usage": "off_session"} if payer else {}),
        },
        "success_url": order["success_url"],
        "cancel_url": order["cancel_url"],
        "expires_at": int(top_up.expires_at.timestamp()),
        **({"customer": payer.customer_id} if payer else {"customer_email": order["email"]}),
        **({"customer_update": {"address": "auto", "name": "auto"}} if payer and _taxed() else {}),
        **({"automatic_tax": {"enabled": True}} if settings.STRIPE_TAX else {}),
        **({"tax_id_collection": {"enabled": True}} if settings.STRIPE_TAX_IDS else {}),
    }


def metadata(top_up: TopUp) -> dict[str, str]:
    """By which a payment at Stripe is known to be this top-up's."""
    return {"top_up": str(top_up.id), "account": str(top_up.owner)}


def _taxed() -> bool:
    return settings.STRIPE_TAX or settings.STRIPE_TAX_IDS


@contextmanager
def attempt(top_up: TopUp) -> Iterator[tuple[stripe.StripeClient, str]]:
    """The client and an idempotency key for this top-up: the same one until Stripe keeps an error under it."""
    number = top_up.attempt
    try:
        with asking() as client:
            yield client, f"{top_up.id}:{number}" if number else str(top_up.id)
    except PaymentsUnavailable as error:
        if error.kept:
            TopUp.objects.filter(id=top_up.id, attempt=number).update(attempt=number + 1)
        raise


@contextmanager
def asking() -> Iterator[stripe.StripeClient]:
    """The client; Stripe's errors come out as ours."""
    if not settings.STRIPE_SECRET_KEY:
        raise PaymentsUnavailable("STRIPE_SECRET_KEY is not set")
    try:
        yield _client(settings.STRIPE_SECRET_KEY, settings.STRIPE_API_BASE)
    except stripe.StripeError as error:
        status = error.http_status or 0
        if status == 409:
            raise PaymentInFlight(str(error)) from error
        if isinstance(error, stripe.AuthenticationError | stripe.PermissionError):
            logger.error("Stripe does not take STRIPE_SECRET_KEY: %s", error)  # the operator's to put right
            raise PaymentsUnavailable(str(error)) from error
        if isinstance(error, stripe.APIConnectionError | stripe.APIError | stripe.RateLimitError):
            raise PaymentsUnavailable(str(error), kept=status >= 500) from error
        raise PaymentsRefused(str(error)) from error


@lru_cache(maxsize=4)
def _client(key: str, base: str) -> stripe.StripeClient:
    return stripe.StripeClient(
        key,
        base_addresses={"api": base} if base else {},
        http_client=stripe.RequestsClient(timeout=TIMEOUT),
        max_network_retries=1,
    )
