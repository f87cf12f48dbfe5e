"""Payers: accounts as Stripe's customers, whom Stripe may have deleted. Not for their cards (cards).

Stripe answers a repeated idempotency key with the customer of the first time, even if that was deleted since. So the
key has a generation, and a customer is looked up before it is written down.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from itertools import count
from typing import TypeVar
from uuid import UUID

from billing.errors import PaymentsRefused
from billing.models import Payer
from billing.payments.stripe import MISSING, Stripe

REPLACED = "another customer"
Answer = TypeVar("Answer")


def ensure(stripe: Stripe, owner: UUID, email: str) -> Payer:
    """Return the account as Stripe's customer; create it if needed. Raises PaymentsUnavailable or PaymentsRefused."""
    found = Payer.objects.filter(owner=owner).first()
    if found is None:
        customer = _create(stripe, owner, email)
        found, _ = Payer.objects.get_or_create(owner=owner, defaults={"customer_id": customer})
    return found


def ask(stripe: Stripe, owner: UUID, email: str, question: Callable[[Payer], Answer]) -> Answer:
    """Ask Stripe something about a payer and, if it has deleted that customer, once more about a new one.

    Raises PaymentsUnavailable or PaymentsRefused.
    """
    payer = ensure(stripe, owner, email)
    try:
        return question(payer)
    except PaymentsRefused:
        if _exists(stripe, payer.customer_id):
            raise
    fresh = _create(stripe, owner, email)
    mine = Payer.objects.filter(owner=owner, customer_id=payer.customer_id)
    mine.update(customer_id=fresh, card_news=REPLACED)  # its card went with the old customer (automatic.follow_cards)
    return question(ensure(stripe, owner, email))


def _create(stripe: Stripe, owner: UUID, email: str) -> str:
    terms = {"email": email, "metadata": {"account": str(owner)}}
    name = f"customer:{owner}:{sha256(email.encode()).hexdigest()}"
    for generation in count():
        with stripe.asking() as client:
            key = f"{name}:{generation}" if generation else name
            customer = client.v1.customers.create(terms, {"idempotency_key": key})  # type: ignore[arg-type]
        if _exists(stripe, customer.id):
            break
    return customer.id


def _exists(stripe: Stripe, customer_id: str) -> bool:
    try:
        with stripe.asking() as client:
            return not getattr(client.v1.customers.retrieve(customer_id), "deleted", False)
    except PaymentsRefused as error:
        if error.code != MISSING:
            raise
        return False
