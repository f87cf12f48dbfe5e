"""What owners should be told of their payments and payouts: written with what happened, taken from here.

Who tells them, and how, is not known to billing.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

from billing.amounts import format_money
from billing.models import Notice, Payout, TopUp, Wallet


def write(owner: UUID, kind: Notice.Kind, **data: Any) -> None:
    """Write down that something happened to `owner`; call it in the transaction in which it does."""
    Notice.objects.create(owner=owner, kind=kind, data=data)


def about(top_up: TopUp, kind: Notice.Kind, **data: Any) -> None:
    """Write down what happened to a top-up's payment."""
    price = format_money(top_up.price_minor, top_up.currency)
    terms = {"price": price, "currency": top_up.currency, "automatic": top_up.automatic}
    write(top_up.owner, kind, topup=str(top_up.id), **terms, **data)


def of_payout(payout: Payout, kind: Notice.Kind, **data: Any) -> None:
    """Write down what became of a payout."""
    amount, currency = format_money(payout.money_minor, payout.purse.currency), payout.purse.currency
    owner = Wallet.objects.get(id=payout.purse.maker_id).owner
    assert owner is not None, "a purse is a maker's"
    write(owner, kind, payout=str(payout.id), amount=amount, currency=currency, **data)


def take(limit: int = 100) -> list[Notice]:
    """Remove the oldest notices and return them. Call it in a transaction: what is rolled back is told later."""
    found = list(Notice.objects.select_for_update(skip_locked=True).order_by("id")[:limit])
    Notice.objects.filter(id__in=[notice.id for notice in found]).delete()
    return found
