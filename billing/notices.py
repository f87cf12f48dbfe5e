"""What customers should be told of their payments: written with what happened, in its transaction, and taken from here.

Who tells them, and how, is not known to billing.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

from billing.amounts import format_money
from billing.models import Notice, TopUp


def write(owner: UUID, kind: Notice.Kind, **data: Any) -> None:
    """Write down that something happened to `owner`; call it in the transaction in which it does."""
    Notice.objects.create(owner=owner, kind=kind, data=data)


def about(top_up: TopUp, kind: Notice.Kind, **data: Any) -> None:
    """Write down what happened to a top-up's payment."""
    price = format_money(top_up.price_minor, top_up.currency)
    terms = {"price": price, "currency": top_up.currency, "automatic": top_up.automatic}
    write(top_up.owner, kind, topup=str(top_up.id), **terms, **data)


def take(limit: int = 100) -> list[Notice]:
    """Remove the oldest notices and return them. Call it in a transaction: what is rolled back is told later."""
    found = list(Notice.objects.select_for_update(skip_locked=True).order_by("id")[:limit])
    Notice.objects.filter(id__in=[notice.id for notice in found]).delete()
    return found
