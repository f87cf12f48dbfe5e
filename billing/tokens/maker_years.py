"""What makers earned, exchanged and were paid out, by month, year, and in all, as tax reports need it. Reads only.

Months and years are those of a time zone. What was taken back counts in the month of the earning: a later statement may
say less of an earlier month, as its refunds and disputes come in.
"""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from django.db import connection

# A row for each month and currency; '' is what has no worth.
_MONTHS = """
WITH maker AS (SELECT id FROM billing_wallet WHERE owner = %(owner)s AND kind = 'creator'),
purse AS (SELECT purse.id, currency FROM billing_purse purse JOIN maker ON maker.id = maker_id),
side AS (
    SELECT created_at, currency, amount, back + owed AS gone, money_minor - back_minor - owed_minor AS worth,
           0 AS exchanged, 0 AS exchanged_minor, 0 AS paid, 0 AS paid_minor
    FROM billing_earning JOIN maker ON maker.id = maker_id
    UNION ALL
    SELECT created_at, currency, 0, 0, 0, amount, money_minor, 0, 0
    FROM billing_exchange JOIN purse ON purse.id = purse_id
    UNION ALL
    SELECT created_at, currency, 0, 0, 0, 0, 0, amount - back, money_minor - back_minor
    FROM billing_payout JOIN purse ON purse.id = purse_id
)
SELECT to_char(created_at AT TIME ZONE %(zone)s, 'YYYY-MM'), currency, sum(amount)::bigint, sum(gone)::bigint,
       sum(worth)::bigint, sum(exchanged)::bigint, sum(exchanged_minor)::bigint, sum(paid)::bigint,
       sum(paid_minor)::bigint
FROM side WHERE %(year)s::text IS NULL OR to_char(created_at AT TIME ZONE %(zone)s, 'YYYY') = %(year)s
GROUP BY 1, 2 ORDER BY 1, 2
"""


@dataclass(frozen=True)
class Totals:
    """Of one currency in one month, or in all if `month` is empty: milli-Tokens, money in its smallest unit."""

    month: str
    currency: str
    earned: int
    taken_back: int
    worth_minor: int
    exchanged: int
    exchanged_minor: int
    paid_out: int
    paid_out_minor: int


def of(owner: UUID, year: str, zone: str) -> list[Totals]:
    """Return the months of a year in which anything happened, and then the year's totals, each by currency."""
    months = _months(owner, year, zone)
    return [*months, *_sums(months)]


def ever(owner: UUID) -> list[Totals]:
    """Return a maker's totals since the beginning, by currency."""
    return _sums(_months(owner, None, "UTC"))


def _months(owner: UUID, year: str | None, zone: str) -> list[Totals]:
    with connection.cursor() as cursor:
        cursor.execute(_MONTHS, {"owner": owner, "year": year, "zone": zone})
        return [Totals(*row) for row in cursor.fetchall()]


def _sums(months: list[Totals]) -> list[Totals]:
    return [_sum(months, currency) for currency in sorted({each.currency for each in months})]


def _sum(months: list[Totals], currency: str) -> Totals:
    mine = [each for each in months if each.currency == currency]
    return Totals(
        "", currency, sum(each.earned for each in mine), sum(each.taken_back for each in mine),
        sum(each.worth_minor for each in mine), sum(each.exchanged for each in mine),
        sum(each.exchanged_minor for each in mine), sum(each.paid_out for each in mine),
        sum(each.paid_out_minor for each in mine),
    )  # fmt: skip
