"""Top-ups that people make: they choose a pack and pay on Stripe's page, the Checkout. Not for crediting (events).

A top-up's id is the idempotency key of its Checkout: however often it is requested, there is one to pay. If Stripe
stores an error or a refusal under that key, the next attempt has another one; a Checkout that the first may have made
was never shown to anybody.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import transaction

from billing import clock, notices
from billing.amounts import format_tokens
from billing.errors import (
    IdempotencyMismatch,
    UnknownCurrency,
)
from billing.models import Notice, Payer, TopUp
from billing.payments import payers
from billing.payments.stripe import Stripe, metadata
from billing.prices import packs

# Stripe keeps an idempotency key for 24 hours, and a Checkout for at most as long. This is shorter, so that a Checkout
# requested again after its key was forgotten is refused, because its expiry would be in the past.
OPEN_FOR = timedelta(hours=23)


@dataclass(frozen=True)
class Order:
    """What a customer asks for; `email` gets Stripe's receipt, and a retry must repeat `body`.

    `save_card` lets automatic top-ups use the card.
    """

    pack: str
    currency: str
    success_url: str
    cancel_url: str
    email: str
    body: dict[str, Any]
    save_card: bool = False


def buy(
    stripe: Stripe, top_up_id: UUID, owner: UUID, order: Order, idempotency_key: str | None = None
) -> tuple[TopUp, bool]:
    """Return a top-up with a Checkout to pay it, and whether it already existed under this key.

    Raises UnknownPack, UnknownCurrency or IdempotencyMismatch; PaymentsUnavailable or PaymentsRefused, after which the
    same call with the same key continues where it stopped.
    """
    top_up = _existing(owner, order, idempotency_key)
    replayed = top_up is not None
    if top_up is None:
        top_up, replayed = _new(top_up_id, owner, order, idempotency_key)
    open_page(stripe, top_up)
    return top_up, replayed


def open_page(stripe: Stripe, top_up: TopUp) -> None:
    """Give an open top-up the page to pay it, unless it has one. Raises PaymentsUnavailable or PaymentsRefused."""
    if top_up.session_id or top_up.status != TopUp.Status.OPEN:
        return

    def create(payer: Payer | None) -> Any:
        with stripe.attempt(top_up) as (client, key):
            return client.v1.checkout.sessions.create(_checkout(top_up, payer), {"idempotency_key": key})

    saves_card, email = top_up.order.get("save_card"), top_up.order["email"]
    session = payers.ask(stripe, top_up.owner, email, create) if saves_card else create(None)
    # Only these columns, and only once: the webhook that reports the payment may have come first.
    with transaction.atomic():
        opened = TopUp.objects.filter(id=top_up.id, session_id="").update(session_id=session.id, url=session.url or "")
        top_up.refresh_from_db()
        if opened and top_up.automatic:  # nobody who ordered it is there to see the page
            notices.about(top_up, Notice.Kind.ACTION_REQUIRED, url=top_up.url)


def _existing(owner: UUID, order: Order, key: str | None) -> TopUp | None:
    """Return the top-up under the key. Raises IdempotencyMismatch if it was for something else."""
    found = TopUp.objects.filter(owner=owner, idempotency_key=key).first() if key else None
    if found is not None and found.order["body"] != order.body:
        raise IdempotencyMismatch(key or "")
    return found


def _new(top_up_id: UUID, owner: UUID, order: Order, key: str | None) -> tuple[TopUp, bool]:
    pack = packs.find(order.pack)
    if order.currency not in pack.prices:
        raise UnknownCurrency(order.currency, sorted(pack.prices))
    now = clock.now()
    made = TopUp(
        id=top_up_id, owner=owner, pack=pack, currency=order.currency, price_minor=pack.prices[order.currency],
        idempotency_key=key, created_at=now, expires_at=now + OPEN_FOR,
        order=asdict(order),
    )  # fmt: skip
    TopUp.objects.bulk_create([made], ignore_conflicts=True)  # a request with the same key may have come first
    found = _existing(owner, order, key)
    return (found, found.id != top_up_id) if found else (made, False)


def _checkout(top_up: TopUp, payer: Payer | None) -> Any:
    """Return the Checkout's parameters, the same for every call for this top-up; a `payer` saves the card."""
    order, pack = top_up.order, top_up.pack
    ours = metadata(top_up)
    bonus = f" and {format_tokens(pack.bonus)} more" if pack.bonus else ""
    price = {
        "currency": top_up.currency,
        "unit_amount": top_up.price_minor,
        "product_data": {"name": f"{format_tokens(pack.tokens)} Tokens{bonus}"},
        "tax_behavior": "inclusive",  # so that the total is the pack's price whatever the tax
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


def _taxed() -> bool:
    return settings.STRIPE_TAX or settings.STRIPE_TAX_IDS
