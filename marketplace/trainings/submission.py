"""Orders of trainings become queued ones: priced and held in the transaction that writes them. What follows is
`lifecycle`'s."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from django.conf import settings
from django.db import transaction

from billing.errors import BillingError
from billing.tokens import wallets
from lora import tiers, training_prices
from lora.errors import LoraError
from lora.models import Adapter, Tier
from lora.training_prices import Quote
from marketplace.accounts import caps, keys
from marketplace.accounts.models import Account
from marketplace.identifiers import uuid7
from marketplace.jobs.models import FINAL
from marketplace.trainings.errors import CostAboveMaximum, KeyReused, QueueFull, TrainingError
from marketplace.trainings.models import Training
from marketplace.trainings.orders import TrainingOrder

MOST_UNFINISHED = 10


@dataclass(frozen=True, slots=True)
class Submitted:
    training: Training
    replayed: bool


def quote(order: TrainingOrder) -> tuple[Tier, Quote]:
    """Return the tier's version on sale, and the price in it.

    Raises UnknownTier, OutsideTier, or CostAboveMaximum if it is above the customer's own limit.
    """
    tier = tiers.find(order.tier)
    offer = training_prices.quote(order.priced, str(tier), tier.terms)
    if order.max_cost is not None and offer.total > order.max_cost:
        raise CostAboveMaximum(offer.total, order.max_cost)
    return tier, offer


def submit(
    account_id: UUID,
    order: TrainingOrder,
    digest: bytes,
    adapter: Callable[[], Adapter],
    *,
    key_id: UUID | None = None,
    idempotency_key: str | None = None,
) -> Submitted:
    """Hold the price and queue the training, and make its adapter, all or nothing.

    `adapter` finds or makes it, within the transaction; `digest` is that of what was said (`orders.digest`). Raises
    what `quote`, `wallets.hold`, `caps.check` and `adapter` raise, QueueFull, `keys.Revoked`, and KeyReused if the
    idempotency key came with another order before.
    """
    try:
        training = _buy(account_id, order, digest, adapter, key_id, idempotency_key or None)
    except (BillingError, LoraError, TrainingError):
        if key_id:
            keys.confirm(key_id)
        if earlier := replay(account_id, digest, idempotency_key):
            return earlier
        raise
    return Submitted(training, replayed=False)


@transaction.atomic
def _buy(
    account_id: UUID,
    order: TrainingOrder,
    digest: bytes,
    adapter: Callable[[], Adapter],
    key_id: UUID | None,
    idempotency_key: str | None,
) -> Training:
    tier, offer = quote(order)
    caps.check(account_id, key_id, offer.total)
    if key_id:
        keys.confirm(key_id)
    Account.objects.select_for_update(no_key=True).get(id=account_id)  # counted one after the other
    mine = Training.objects.filter(account_id=account_id)
    if mine.exclude(status__in=FINAL).count() >= MOST_UNFINISHED:
        raise QueueFull(MOST_UNFINISHED)
    if idempotency_key and mine.filter(idempotency_key=idempotency_key).exists():
        raise KeyReused
    training_id = uuid7()
    expires_in = timedelta(seconds=settings.TRAINING_HOLD_SECONDS)
    wallets.hold(account_id, offer.total, training_id, expires_in, spender=key_id)
    return Training.objects.create(
        id=training_id,
        account_id=account_id,
        api_key_id=key_id,
        adapter=adapter(),
        tier=tier,
        idempotency_key=idempotency_key,
        order_digest=digest,
        order=order.as_json(),
        service_class=tier.service_class,
        keep_pictures=order.keep_pictures,
        quote=offer.as_json(),
        quoted=offer.total,
        steps=order.steps,
    )


def replay(account_id: UUID, digest: bytes, idempotency_key: str | None) -> Submitted | None:
    """Return what the idempotency key has bought. Raises KeyReused if it came with another order."""
    found = Training.objects.filter(account_id=account_id, idempotency_key=idempotency_key).first()
    if not idempotency_key or found is None:
        return None
    if bytes(found.order_digest) != digest:
        raise KeyReused
    return Submitted(found, replayed=True)
