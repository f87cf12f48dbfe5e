"""Exchanges: matured earnings become Tokens that their maker can spend, as lots that keep what they are worth.

A lot for each purse: paid for with the worth that leaves the purse, or granted where there is none. Spent on another
maker's adapter, that money is drawn from the lot as any other, so none is lost or made. Not for money that leaves
(payouts).
"""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from django.db import transaction

from billing.errors import IdempotencyMismatch, NothingMatured
from billing.models import Exchange, Transfer, Wallet
from billing.prepared import run
from billing.tokens import debts, earnings, ledger, marketing, takebacks
from billing.tokens.earnings import Standing

_CREDIT = f"""
WITH target AS (
    SELECT id, balance FROM billing_wallet WHERE owner = %(owner)s::uuid AND kind = 'customer' FOR NO KEY UPDATE
),
{ledger.ISSUE},
credited AS (
    UPDATE billing_wallet SET balance = billing_wallet.balance + issued.amount
    FROM issued WHERE billing_wallet.id = issued.target_id
)
SELECT lot.id FROM lot
"""


@transaction.atomic
def make(owner: UUID, requested: int | None, key: str) -> tuple[list[Exchange], bool]:
    """Exchange the requested milli-Tokens of what has matured, or all; return what was, and whether it was before.

    Those without worth go first. Raises NothingMatured if less has matured, NoWallet, or IdempotencyMismatch.
    """
    maker_id = earnings.maker_of(owner)
    # The customer's wallet is locked before the maker's, as everywhere.
    wallet = Wallet.objects.select_for_update(no_key=True).get(owner=owner, kind=Wallet.Kind.CUSTOMER)
    marketing.weigh()
    with earnings.locked([maker_id]):
        if made := _made(maker_id, requested, key):
            return made, True
        takebacks.settle([maker_id])
        parts = _parts(earnings.purses(maker_id), requested)
        made = [_leave(maker_id, each, amount, requested, key) for each, amount in parts]
    for exchange in made:
        _credit(owner, maker_id, exchange)
    if wallet.frozen:
        debts.pay(wallet.id)
    return made, False


def _made(maker_id: int, requested: int | None, key: str) -> list[Exchange]:
    """Return what was exchanged under the key. Raises IdempotencyMismatch if that was another amount."""
    found = Exchange.objects.filter(purse__maker_id=maker_id, idempotency_key=key).select_related("purse")
    made = list(found.order_by("purse__currency"))
    if any(exchange.requested != requested for exchange in made):
        raise IdempotencyMismatch(key)
    return made


def _parts(purses: Sequence[Standing], requested: int | None) -> list[tuple[Standing, int]]:
    """Return how much of each purse to exchange. Raises NothingMatured if together they have less."""
    ready = sum(each.ready for each in purses)
    left = ready if requested is None else requested
    if not 0 < left <= ready:
        raise NothingMatured(ready)
    parts = []
    for each in purses:
        amount = min(left, each.ready)
        left -= amount
        parts += [(each, amount)] if amount else []
    return parts


def _leave(maker_id: int, purse: Standing, amount: int, requested: int | None, key: str) -> Exchange:
    """Take an amount out of a purse, with its part of the money, rounded down."""
    money = purse.ready_minor * amount // purse.ready
    row = earnings.take_out(maker_id, purse.currency, amount, money)
    return Exchange.objects.create(
        purse=row, amount=amount, money_minor=money, requested=requested, idempotency_key=key
    )


def _credit(owner: UUID, maker_id: int, exchange: Exchange) -> None:
    money = exchange.money_minor
    values = {
        "owner": owner, "source": maker_id, "amount": exchange.amount, "kind": Transfer.Kind.EXCHANGE.value,
        "reference": exchange.id, "key": f"exchange:{exchange.id}", "memo": "", "price_minor": money or None,
        "currency": exchange.purse.currency if money else "", "expires_at": None,
    }  # fmt: skip
    assert run(_CREDIT, values) is not None, "the wallet is locked and the key is new"
