"""The only writer of transfers, and their reader, as statements. `proof` checks that they add up.

An operation of `wallets` is one SQL statement, so its transfers are written inside that statement: the SQL that writes
them is kept here, as CTEs that `wallets` and `withdrawals` append to the row they have locked. Incoming Tokens are a
lot from the start, so the SQL that issues Tokens writes their lot as well. Not for balances or holds, which `wallets`
keeps, or for draws from lots, which `lots` and `debts` keep.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db import connection, transaction

from billing.models import MINT_ID, Transfer

_INSERT = "INSERT INTO billing_transfer (source_id, target_id, amount, kind, reference, idempotency_key, memo, balance)"

# Reads `paid (id, reference, balance)`: the customer's locked wallet, so that its transfers are numbered in the order
# in which they commit, and its balance after the charge. One row per share, each with the sum of the shares after it.
CAPTURES = f"""
captures AS (
    {_INSERT}
    SELECT paid.id, share.target, share.amount, '{Transfer.Kind.CAPTURE}', paid.reference,
           'capture:' || paid.reference || ':' || share.target, '', paid.balance + share.later
    FROM paid, unnest(%(targets)s::bigint[], %(amounts)s::bigint[], %(laters)s::bigint[])
        AS share (target, amount, later)
)"""

# Reads `target (id, balance)`; returns no row if the key was used before. Incoming Tokens are a lot from the start, and
# come from the wallet `source`: the mint, or a maker's.
ISSUE = f"""
issued AS (
    {_INSERT}
    SELECT %(source)s::bigint, id, %(amount)s::bigint, %(kind)s::text, %(reference)s::uuid, %(key)s::text,
           %(memo)s::text, balance + %(amount)s::bigint
    FROM target
    ON CONFLICT (idempotency_key) DO NOTHING
    RETURNING id, target_id, amount, created_at
),
lot AS (
    INSERT INTO billing_lot (wallet_id, transfer_id, kind, amount, remaining, price_minor, currency, expires_at,
                             created_at)
    SELECT target_id, id, CASE WHEN %(price_minor)s::bigint IS NULL THEN 'granted' ELSE 'paid' END, amount, amount,
           %(price_minor)s::bigint, %(currency)s::text, %(expires_at)s::timestamptz, created_at
    FROM issued
    RETURNING id
)"""

# Reads `taken (id, balance)`: the customer's locked wallet, and what is left in it. Returns Tokens to the mint.
WITHDRAWAL = f"""
withdrawn AS (
    {_INSERT}
    SELECT id, {MINT_ID}, %(amount)s::bigint, %(kind)s::text, %(reference)s::uuid, %(key)s::text, '', balance
    FROM taken
)"""

# Reads `target (id, reference, balance)`: one row per part of a refund, each with the sum of the parts after it.
REFUNDS = f"""
returned AS (
    {_INSERT}
    SELECT part.source, target.id, part.amount, '{Transfer.Kind.REFUND}', target.reference, part.key, %(memo)s::text,
           target.balance + %(amount)s::bigint - part.later
    FROM target, unnest(%(sources)s::bigint[], %(amounts)s::bigint[], %(laters)s::bigint[], %(keys)s::text[])
        AS part (source, amount, later, key)
)"""

_MOVE = f"""
{_INSERT} VALUES (%(source)s, %(target)s, %(amount)s, %(kind)s, %(reference)s, %(key)s, '', NULL)
"""


_LOCK = "SELECT id FROM billing_wallet WHERE owner = %s AND kind = 'customer' FOR NO KEY UPDATE"
_OUTER = "SELECT coalesce(current_setting('kiln.moment', true), '')"
_BEGIN = "SELECT set_config('kiln.moment', coalesce(nullif(%s, ''), clock_timestamp()::text), true)::timestamptz"
_END = "SELECT set_config('kiln.moment', %s, true)"


@contextmanager
def moment(owner: UUID) -> Iterator[datetime]:
    """Hold a transaction with the customer's wallet locked, whose transfers all have the time that is yielded.

    Money that is written with this time lies in the same month as its Tokens. The clock is read after the lock, so no
    transfer of this wallet is later written with an earlier time: a month can be closed under the same lock.
    """
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(_LOCK, [owner])
        cursor.execute(_OUTER)
        outer = cursor.fetchone()
        cursor.execute(_BEGIN, outer)
        yield cursor.fetchone()[0]
        cursor.execute(_END, outer)


def move(source: int, target: int, amount: int, kind: Transfer.Kind, reference: UUID | None, key: str) -> None:
    """Write a transfer between two wallets that are no customer's. The caller has locked the maker's."""
    values: dict[str, Any] = {
        "source": source, "target": target, "amount": amount, "kind": kind.value, "reference": reference, "key": key,
    }  # fmt: skip
    with connection.cursor() as cursor:
        cursor.execute(_MOVE, values)


@dataclass(frozen=True)
class Entry:
    """A line of a statement; `amount` in milli-Tokens, positive if Tokens came in; `balance` is the one after it.

    `top_up` is the payment that this transfer, or the lot or debt behind it, comes from.
    """

    id: int
    kind: str
    amount: int
    balance: int
    reference: UUID | None
    top_up: UUID | None
    memo: str
    created_at: datetime


# Each half reads one index backwards and stops at the limit, however many transfers there are.
_HALF = """
    (SELECT id, kind, {amount}, balance, reference, memo, created_at FROM billing_transfer
     WHERE {side} = (SELECT id FROM mine) AND id < %(before)s AND (%(kinds)s::text[] IS NULL OR kind = ANY (%(kinds)s))
     ORDER BY id DESC LIMIT %(limit)s)"""
_STATEMENT = f"""
WITH mine AS (SELECT id FROM billing_wallet WHERE owner = %(owner)s AND kind = 'customer'),
page AS (
    {_HALF.format(side="target_id", amount="amount")}
    UNION ALL
    {_HALF.format(side="source_id", amount="-amount AS amount")}
    ORDER BY id DESC LIMIT %(limit)s
)
SELECT page.id, page.kind, page.amount, page.balance, page.reference, topup.id, page.memo, page.created_at
FROM page
LEFT JOIN billing_clawback AS debt ON page.kind = 'settlement' AND debt.id = page.reference
LEFT JOIN billing_lot AS lot ON page.kind IN ('expiry', 'clawback', 'settlement')
    AND lot.id = coalesce(debt.lot_id, page.reference)
LEFT JOIN billing_transfer AS origin ON origin.id = lot.transfer_id
LEFT JOIN billing_topup AS topup ON topup.id = CASE WHEN page.kind IN ('grant', 'purchase') THEN page.reference
                                                    ELSE origin.reference END
ORDER BY page.id DESC
"""


def statement(
    owner: UUID, before_id: int | None = None, limit: int = 50, kinds: list[str] | None = None
) -> list[Entry]:
    """Return the customer's transfers, newest first: those with an id below `before_id`, and of these kinds.

    Ids of one wallet are in the order of its balances, so pages stay consistent while new transfers come. Returns an
    empty list if there is no wallet.
    """
    before = 2**63 - 1 if before_id is None else before_id
    with connection.cursor() as cursor:
        cursor.execute(_STATEMENT, {"owner": owner, "before": before, "limit": limit, "kinds": kinds})
        return [Entry(*row) for row in cursor.fetchall()]


def standing(key: str) -> tuple[UUID | None, UUID | None, int] | None:
    """Return (target's owner, reference, milli-Tokens) of the transfer made under `key`, or None."""
    found = Transfer.objects.filter(idempotency_key=key).values_list("target__owner", "reference", "amount")
    return found.first()
