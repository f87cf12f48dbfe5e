"""Earnings: what each lot paid of each transfer to a maker, as rows that follow the lots, and the makers' purses.

Whoever moves a wallet's cursor writes the rows for the draws of the same transfers, in the same transaction (`lots`,
`runs`), so none is lost or doubled. Captures wait for nothing of it. A maker's earnings in one currency are a purse,
those without worth another one. Not for taking earnings back (takebacks), or for moving them on (exchanges, payouts).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import connection, transaction
from django.db.models import F

from billing.errors import NoWallet
from billing.models import Purse, Wallet

_INSERT = """
INSERT INTO billing_earning (maker_id, transfer_id, lot_id, reference, amount, money_minor, currency, weighed,
                             created_at)"""

# Reads `charge (id, target_id, reference, created_at)`, `draw (id, lot_id, transfer_id, amount, money_minor)` and
# `lot (id, price_minor, currency)`. Earnings follow the order of the draws, as marketing weighs the oldest first.
EARNED = f"""
{_INSERT}
SELECT maker.id, charge.id, draw.lot_id, charge.reference, draw.amount, draw.money_minor, lot.currency,
       lot.price_minor IS NOT NULL, charge.created_at
FROM charge JOIN billing_wallet AS maker ON maker.id = charge.target_id AND maker.kind = 'creator'
JOIN draw ON draw.transfer_id = charge.id JOIN lot ON lot.id = draw.lot_id
ORDER BY draw.id
"""

_FOLLOW = f"""
WITH charge AS (
    SELECT id, target_id, reference, created_at FROM billing_transfer
    WHERE source_id = %(wallet)s AND id BETWEEN %(first)s AND %(last)s AND kind = 'capture'
),
draw AS (SELECT * FROM billing_draw WHERE transfer_id IN (SELECT id FROM charge)),
lot AS (SELECT id, price_minor, currency FROM billing_lot WHERE id IN (SELECT lot_id FROM draw))
{EARNED}
"""

# What a refund put back into a lot from a maker is what it took of the maker's earning from that lot. For granted
# Tokens the marketing account gets its money back, in proportion.
_RETURN = """
WITH gone AS (
    SELECT move.reference, move.source_id AS maker_id, draw.lot_id, -sum(draw.amount)::bigint AS amount,
           -sum(draw.money_minor)::bigint AS money_minor
    FROM billing_transfer AS move JOIN billing_draw AS draw ON draw.transfer_id = move.id
    WHERE move.target_id = %(wallet)s AND move.id BETWEEN %(first)s AND %(last)s AND move.kind = 'refund'
    GROUP BY 1, 2, 3
),
due AS (
    SELECT earning.id, gone.amount, lot.price_minor IS NULL AS is_granted, earning.currency,
           CASE WHEN lot.price_minor IS NULL
                THEN div(earning.money_minor::numeric * (back + gone.amount), earning.amount)::bigint - back_minor
                ELSE gone.money_minor END AS money_minor
    FROM billing_earning AS earning JOIN gone USING (reference, maker_id, lot_id)
    JOIN billing_lot AS lot ON lot.id = lot_id
    FOR NO KEY UPDATE OF earning
),
took AS (
    UPDATE billing_earning AS earning SET back = back + due.amount, back_minor = back_minor + due.money_minor
    FROM due WHERE earning.id = due.id
)
UPDATE billing_marketing AS account SET used_minor = used_minor - given.money_minor
FROM (SELECT currency, sum(money_minor)::bigint AS money_minor FROM due WHERE is_granted GROUP BY currency) AS given
WHERE account.currency = given.currency AND given.money_minor > 0
"""

# One row a purse that has anything: what is in it, what of that has matured, and what the platform advanced.
_PURSES = """
SELECT coalesce(earned.currency, purse.currency),
       (coalesce(earned.amount, 0) - coalesce(purse.out, 0))::bigint,
       (coalesce(earned.money_minor, 0) - coalesce(purse.out_minor, 0))::bigint,
       (coalesce(earned.matured, 0) - coalesce(purse.out, 0))::bigint,
       (coalesce(earned.matured_minor, 0) - coalesce(purse.out_minor, 0))::bigint,
       coalesce(purse.advanced, 0)
FROM (
    SELECT currency, sum(amount) AS amount, sum(money_minor) AS money_minor,
           sum(amount) FILTER (WHERE is_matured) AS matured, sum(money_minor) FILTER (WHERE is_matured) AS matured_minor
    FROM (
        SELECT currency, amount - back - owed AS amount, money_minor - back_minor - owed_minor AS money_minor,
               created_at <= clock_timestamp() - %(age)s::interval AS is_matured
        FROM billing_earning WHERE maker_id = %(maker)s AND weighed
    ) AS net GROUP BY currency
) AS earned FULL JOIN (SELECT * FROM billing_purse WHERE maker_id = %(maker)s) AS purse USING (currency)
ORDER BY 1
"""


@dataclass(frozen=True)
class Standing:
    """What is in a purse: milli-Tokens, and money in the currency's smallest unit; `currency` is empty without worth.

    What was taken back after it had left makes both negative; `advanced` milli-Tokens of that are the platform's.
    """

    currency: str
    amount: int
    money_minor: int
    matured: int
    matured_minor: int
    advanced: int

    @property
    def ready(self) -> int:
        """The milli-Tokens that may leave."""
        return max(0, self.matured)

    @property
    def ready_minor(self) -> int:
        """The money that may leave with all of them."""
        return max(0, self.matured_minor) if self.ready else 0


def follow(wallet_id: int, first: int, last: int) -> None:
    """Write what a wallet's transfers with these ids, whose draws are written, earned and took. For `lots` only."""
    values = {"wallet": wallet_id, "first": first, "last": last}
    with connection.cursor() as cursor:
        cursor.execute(_FOLLOW, values)
        cursor.execute(_RETURN, values)


def maker_of(owner: UUID) -> int:
    """Return the id of somebody's wallet as a maker. Raises NoWallet."""
    found = Wallet.objects.filter(owner=owner, kind=Wallet.Kind.CREATOR).values_list("id", flat=True).first()
    if found is None:
        raise NoWallet(owner)
    return found


def purses(maker_id: int) -> list[Standing]:
    """Return what is in each of a maker's purses, as far as the lots have followed."""
    values: dict[str, Any] = {"maker": maker_id, "age": timedelta(days=settings.EARNINGS_DAYS)}
    with connection.cursor() as cursor:
        cursor.execute(_PURSES, values)
        return [Standing(*row) for row in cursor.fetchall()]


def take_out(maker_id: int, currency: str, amount: int, money_minor: int) -> Purse:
    """Note that Tokens and money leave a locked maker's purse, or come back if negative; return the purse."""
    purse, _ = Purse.objects.get_or_create(maker_id=maker_id, currency=currency)
    left = {"out": F("out") + amount, "out_minor": F("out_minor") + money_minor}
    Purse.objects.filter(pk=purse.pk).update(**left)
    return purse


@contextmanager
def locked(makers: Sequence[int]) -> Iterator[None]:
    """Hold a transaction with these makers' wallets locked: nothing leaves or is taken from them meanwhile.

    Captures wait for nobody. Customers' wallets are locked before makers'.
    """
    with transaction.atomic():
        list(Wallet.objects.select_for_update(no_key=True).filter(id__in=makers).order_by("id"))
        yield
