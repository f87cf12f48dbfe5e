"""What makers see of their earnings: one entry a use, whatever number of lots paid for it. Reads only.

A use is named by an id of its own, from which nobody can tell the customer's job.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid5

from django.conf import settings
from django.db import connection

from billing.models import Wallet
from billing.tokens import earnings
from billing.tokens.earnings import Standing

USE = UUID("5f0e7a0e-9a39-4a6b-8f0c-2b7c3c5b3a51")


@dataclass(frozen=True)
class Earned:
    """A use that earned `amount` milli-Tokens, of which `back` were refunded and `away` are owed by the customer.

    `worth` is in the smallest unit by currency, of what is left; `weighed` is false while that may still change.
    """

    id: int
    reference: UUID
    created_at: datetime
    amount: int
    back: int
    away: int
    weighed: bool
    is_matured: bool
    worth: dict[str, int]

    @property
    def use(self) -> UUID:
        return uuid5(USE, str(self.reference))

    @property
    def state(self) -> str:
        if self.back == self.amount:
            return "taken_back"
        if self.away:
            return "away"
        return "matured" if self.is_matured and self.weighed else "maturing"


# Reads the index of a maker's transfers backwards, and stops at the limit.
_PAGE = """
SELECT transfer_id, reference, created_at, sum(amount)::bigint, sum(back)::bigint, sum(owed)::bigint,
       bool_and(weighed), created_at <= clock_timestamp() - %(age)s::interval,
       jsonb_object_agg(currency, worth) FILTER (WHERE currency <> '')
FROM (
    SELECT transfer_id, reference, created_at, currency, sum(amount) AS amount, sum(back) AS back, sum(owed) AS owed,
           bool_and(weighed) AS weighed, sum(money_minor - back_minor - owed_minor)::bigint AS worth
    FROM billing_earning WHERE maker_id = %(maker)s AND transfer_id < %(before)s
      AND created_at >= %(since)s AND created_at < %(until)s
    GROUP BY transfer_id, reference, created_at, currency
) AS part
GROUP BY transfer_id, reference, created_at ORDER BY transfer_id DESC LIMIT %(limit)s
"""
FIRST = "-infinity"
LAST = "infinity"


def page(
    owner: UUID, before: int | None, limit: int, since: datetime | str = FIRST, until: datetime | str = LAST
) -> list[Earned]:
    """Return a maker's earnings in this time, newest first, as far as the lots have followed."""
    maker_id = _maker(owner)
    if maker_id is None:
        return []
    values: dict[str, Any] = {
        "maker": maker_id, "before": 2**63 - 1 if before is None else before, "limit": limit, "since": since,
        "until": until, "age": timedelta(days=settings.EARNINGS_DAYS),
    }  # fmt: skip
    with connection.cursor() as cursor:
        cursor.execute(_PAGE, values)
        return [Earned(*(*row[:8], json.loads(row[8] or "{}"))) for row in cursor.fetchall()]


def purses(owner: UUID) -> list[Standing]:
    """Return what is in each of a maker's purses; none for somebody who never earned."""
    maker_id = _maker(owner)
    return [] if maker_id is None else earnings.purses(maker_id)


def _maker(owner: UUID) -> int | None:
    return Wallet.objects.filter(owner=owner, kind=Wallet.Kind.CREATOR).values_list("id", flat=True).first()
