"""Runs: the lots of many wallets at once, if nothing but captures happened to them. Amounts are integer milli-Tokens.

Most wallets only spend most of the time, and then no fold is needed to tell which lot paid for what. Nothing came in
and nothing expired meanwhile, so the lots keep their order. Stack them to the height of the balance, the first to be
spent on top: each capture took the slice between the balance after it and the one before. That is one statement for
many wallets. All other wallets, and those that another transaction has locked, are left to `lots`, which folds them one
by one.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from django.db import DatabaseError, connection, transaction

from billing.tokens import earnings, spending

# Transfers per transaction: limits how long others wait for the lots of one of its wallets.
BATCH = 5_000
# Wallets per transaction.
GROUP = 20

logger = logging.getLogger(__name__)

_LOCK = "SELECT wallet_id FROM billing_lotcursor WHERE wallet_id = ANY (%(wallets)s) FOR UPDATE SKIP LOCKED"

# A separate statement, because its snapshot must not be older than the locks.
_FOLLOW = f"""
WITH move AS MATERIALIZED (
    SELECT wallet_id, last_transfer_id AS after, next.*
    FROM billing_lotcursor CROSS JOIN LATERAL (
        SELECT id, kind, amount, reference, balance, created_at, target_id FROM billing_transfer
        WHERE source_id = wallet_id AND id > last_transfer_id ORDER BY id LIMIT %(limit)s
    ) AS next
    WHERE wallet_id = ANY (%(wallets)s)
),
run AS MATERIALIZED (
    SELECT wallet_id, max(id) AS until, count(*) AS moves, min(created_at) AS began
    FROM move
    GROUP BY wallet_id, after
    HAVING bool_and(kind = 'capture')
       AND NOT EXISTS (SELECT FROM billing_transfer WHERE target_id = wallet_id AND id > after)
       AND (SELECT sum(remaining) = max(move.balance + move.amount)
                   AND bool_and(expires_at IS NULL OR expires_at <= min(move.created_at)
                                OR expires_at > max(move.created_at))
            FROM billing_lot AS lot WHERE lot.wallet_id = move.wallet_id AND remaining > 0)
),
charge AS (SELECT move.* FROM move JOIN run USING (wallet_id)),
lot AS (
    SELECT id, wallet_id, amount, remaining, price_minor, currency, spent_minor,
           sum(remaining) OVER (
               PARTITION BY wallet_id
               ORDER BY coalesce(expires_at > began, true), kind = 'paid', expires_at IS NULL, expires_at, transfer_id
               ROWS BETWEEN CURRENT ROW AND UNBOUNDED FOLLOWING
           )::bigint AS top
    FROM run JOIN billing_lot USING (wallet_id)
    WHERE wallet_id = ANY (%(wallets)s) AND remaining > 0
),
part AS (
    SELECT lot.id AS lot_id, charge.id AS transfer_id, lot.amount, top, price_minor, spent_minor,
           least(top, charge.balance + charge.amount) - greatest(top - remaining, charge.balance) AS drawn,
           lot.amount - remaining + top - greatest(top - remaining, charge.balance) AS gone
    FROM charge JOIN lot USING (wallet_id)
    WHERE charge.balance < top AND charge.balance + charge.amount > top - remaining
),
priced AS (
    SELECT lot_id, transfer_id, drawn, top, spent_minor AS before,
           CASE WHEN price_minor IS NULL THEN 0
                ELSE greatest(spent_minor, div(price_minor::numeric * gone, amount)::bigint) END AS spent
    FROM part
),
draw AS (
    INSERT INTO billing_draw (lot_id, transfer_id, amount, money_minor)
    SELECT lot_id, transfer_id, drawn, spent - lag(spent, 1, before) OVER (PARTITION BY lot_id ORDER BY transfer_id)
    FROM priced
    ORDER BY transfer_id, top DESC
    RETURNING id, lot_id, transfer_id, amount, money_minor
),
earned AS ({earnings.EARNED}),
drawn AS (
    UPDATE billing_lot SET remaining = remaining - taken.amount, spent_minor = spent_minor + taken.money_minor
    FROM (SELECT lot_id, sum(amount)::bigint AS amount, sum(money_minor)::bigint AS money_minor
          FROM draw GROUP BY lot_id) AS taken
    WHERE id = taken.lot_id
),
spent AS ({spending.KEEP}),
moved AS (
    UPDATE billing_lotcursor SET last_transfer_id = until FROM run
    WHERE run.wallet_id = billing_lotcursor.wallet_id
)
SELECT wallet_id, moves FROM run
"""


def follow(wallet_ids: Sequence[int], batch: int = BATCH) -> set[int]:
    """Return the wallets whose lots now follow every transfer. A group that fails is logged and left to the fold."""
    followed: set[int] = set()
    for group in (wallet_ids[first : first + GROUP] for first in range(0, len(wallet_ids), GROUP)):
        try:
            followed |= _follow(group, batch)
        except DatabaseError:
            logger.exception("runs of wallets %s", group)
    return followed


def _follow(group: Sequence[int], batch: int) -> set[int]:
    followed: set[int] = set()
    while group:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(_LOCK, {"wallets": list(group)})
            locked = [wallet_id for (wallet_id,) in cursor.fetchall()]
            limit = batch // max(1, len(locked))
            cursor.execute(_FOLLOW, {"wallets": locked, "limit": limit})
            moved = cursor.fetchall()
        group = [wallet_id for wallet_id, moves in moved if moves == limit]
        followed |= {wallet_id for wallet_id, moves in moved if moves < limit}
    return followed
