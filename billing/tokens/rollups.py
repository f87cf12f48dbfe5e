"""Balances of the platform, the creators and the mint, which are not stored as transfers are made.

Their transfers are summed up to a mark now and then; a balance is that sum and the few transfers since. No request
writes or locks anything here. Amounts are integer milli-Tokens. Not for customers (wallets).
"""

from __future__ import annotations

import time

from django.db import connection, transaction

from billing.prepared import run

CHUNK = 100_000
PATIENCE_SECONDS = 2.0

# The rolled-up sum and the rest are read in one snapshot, so they agree wherever the mark is.
_BALANCE = """
SELECT coalesce(rollup.balance, 0)
     + (SELECT coalesce(sum(amount), 0) FROM billing_transfer
        WHERE target_id = wallet.id AND id > coalesce(rollup.last_transfer_id, 0))
     - (SELECT coalesce(sum(amount), 0) FROM billing_transfer
        WHERE source_id = wallet.id AND id > coalesce(rollup.last_transfer_id, 0))
FROM billing_wallet AS wallet LEFT JOIN billing_rollup AS rollup ON rollup.wallet_id = wallet.id
WHERE wallet.id = %(wallet)s AND wallet.kind <> 'customer'
"""

_HIGHEST = "SELECT coalesce(max(id), 0) FROM billing_transfer"

# Transactions that may have drawn an id without committing it: a statement locks its table before it draws one.
_WRITERS = """
SELECT virtualtransaction FROM pg_locks
WHERE locktype = 'relation' AND relation = 'billing_transfer'::regclass AND mode = 'RowExclusiveLock'
  AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND pid IS DISTINCT FROM pg_backend_pid()
"""

# The id that ends the next chunk, or the last one there is.
_NEXT = """
SELECT mark.id, (
    SELECT coalesce(max(id), 0) FROM (
        SELECT id FROM billing_transfer WHERE id > mark.id AND id <= %s ORDER BY id LIMIT %s
    ) AS chunk
) FROM (SELECT coalesce(max(last_transfer_id), 0) AS id FROM billing_rollup) AS mark
"""

# Every transfer has such a wallet at one end, so the furthest mark of any of them applies to all.
_ADD = """
INSERT INTO billing_rollup (wallet_id, balance, last_transfer_id)
SELECT wallet.id, sum(side.amount)::bigint, %(until)s FROM (
    SELECT target_id AS wallet_id, amount FROM billing_transfer WHERE id > %(after)s AND id <= %(until)s
    UNION ALL
    SELECT source_id, -amount FROM billing_transfer WHERE id > %(after)s AND id <= %(until)s
) AS side JOIN billing_wallet AS wallet ON wallet.id = side.wallet_id AND wallet.kind <> 'customer'
GROUP BY wallet.id
ON CONFLICT (wallet_id) DO UPDATE
SET balance = billing_rollup.balance + excluded.balance, last_transfer_id = excluded.last_transfer_id
"""


def balance(wallet_id: int) -> int | None:
    """Return the sum of a wallet's transfers in milli-Tokens; None if it is a customer's or does not exist."""
    found = run(_BALANCE, {"wallet": wallet_id})
    return None if found is None else int(found[0])


def roll_up(patience_seconds: float = PATIENCE_SECONDS, chunk: int = CHUNK) -> int | None:
    """Move the mark to the last transfer there is; return how many chunks that took.

    Lower ids may still be committed, so this waits for the transactions that may have drawn them. Returns None if one
    takes longer than `patience_seconds`; the next call tries again. Not inside a transaction.
    """
    highest = _column(_HIGHEST)[0]
    writers = set(_column(_WRITERS))
    deadline = time.monotonic() + patience_seconds
    while writers.intersection(_column(_WRITERS)):
        if time.monotonic() > deadline:
            return None
        time.sleep(0.01)
    chunks = 0
    while _add_chunk(highest, chunk):
        chunks += 1
    return chunks


@transaction.atomic
def _add_chunk(highest: int, most: int) -> bool:
    """Add one chunk of at most `most` transfers in one transaction; return False if nothing is left up to `highest`."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(hashtext('roll-up'), 0)")
        cursor.execute(_NEXT, [highest, most])
        after, until = cursor.fetchone()
        if until:
            cursor.execute(_ADD, {"after": after, "until": until})
    return bool(until)


def _column(sql: str) -> list[int]:
    with connection.cursor() as cursor:
        cursor.execute(sql)
        return [value for (value,) in cursor.fetchall()]
