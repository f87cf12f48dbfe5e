"""Holds: the SQL that sets Tokens aside for one owner or for many, for statements that write more than holds.

Also which holds are due to be expired. Not for what becomes of one hold: these are the verbs of `wallets`.
"""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from django.db.models import Sum
from django.db.models.functions import Now

from billing.models import Hold

# Lots are as of a cursor, so these Tokens may be spent: `lots.expire_of` finds out, and takes those that are not.
# Expired Tokens stay as far as holds that were made before keep them (`lots`). OFFSET 0 makes it a look into this
# wallet's lots; as a join it would read everybody's expired ones.
_NOTHING_EXPIRED = """NOT EXISTS (
        SELECT FROM billing_lot AS lot WHERE lot.wallet_id = billing_wallet.id AND remaining > 0
        AND lot.expires_at <= statement_timestamp()
        AND (SELECT sum(remaining) FROM billing_lot AS sooner WHERE sooner.wallet_id = lot.wallet_id
             AND sooner.remaining > 0 AND sooner.expires_at <= lot.expires_at)
          > (SELECT coalesce(sum(amount), 0) FROM billing_hold AS made WHERE made.wallet_id = lot.wallet_id
             AND made.status = 'held' AND made.created_at < lot.expires_at)
        OFFSET 0
    )"""

# Two CTEs with the parameters owner, amount, reference, spender and expires_in. If new_hold has no row, there are too
# few Tokens, or the wallet is frozen or missing (`wallets.refusal` says which), or some of its Tokens have expired.
HOLD_CTE = f"""
held_wallet AS (
    UPDATE billing_wallet SET held = held + %(amount)s::bigint
    WHERE owner = %(owner)s::uuid AND kind = 'customer' AND balance - held >= %(amount)s::bigint AND NOT frozen
    AND {_NOTHING_EXPIRED}
    RETURNING id
),
new_hold AS (
    INSERT INTO billing_hold (wallet_id, reference, spender, amount, expires_at)
    SELECT id, %(reference)s::uuid, %(spender)s::uuid, %(amount)s::bigint,
           statement_timestamp() + %(expires_in)s::interval
    FROM held_wallet
    RETURNING id, wallet_id, reference, amount, expires_at
)"""

# The same for many owners at once; what is paid for can be written between the two, in the same statement.
# PAYERS_CTE locks the wallets of a CTE `wanted (owner)`. HOLDS_CTE reads a CTE
# `bought (owner, reference, spender, amount)`, whose sum for an owner must be within `payer.available`, and the
# parameter expires_in. It writes what was read under the lock: PostgreSQL checks constraints first with the row as the
# statement's snapshot has it, which may lack the Tokens that came while it waited, and would refuse the statement.
_PAYERS = f"""
payer AS MATERIALIZED (
    SELECT id AS wallet_id, owner, balance, held, balance - held AS available FROM billing_wallet
    WHERE kind = 'customer' AND NOT frozen AND owner = ANY (ARRAY(SELECT owner FROM wanted))
    AND {_NOTHING_EXPIRED}
    FOR NO KEY UPDATE {{if_locked}}
)"""
PAYERS_CTE = _PAYERS.format(if_locked="")
# Leaves out wallets that are locked, so that it never waits.
FREE_PAYERS_CTE = _PAYERS.format(if_locked="SKIP LOCKED")
HOLDS_CTE = """
new_hold AS (
    INSERT INTO billing_hold (wallet_id, reference, spender, amount, expires_at)
    SELECT wallet_id, reference, spender, amount, statement_timestamp() + %(expires_in)s::interval
    FROM bought JOIN payer USING (owner)
    RETURNING wallet_id, amount
),
held_wallet AS (
    UPDATE billing_wallet SET balance = payer.balance, held = payer.held + due.amount
    FROM (SELECT wallet_id, sum(amount)::bigint AS amount FROM new_hold GROUP BY wallet_id) AS due
    JOIN payer USING (wallet_id)
    WHERE id = wallet_id
)"""


def made_before(wallet_id: int, moment: datetime) -> int:
    """Return the milli-Tokens of a wallet's open holds that were made before this time."""
    made = Hold.objects.filter(wallet_id=wallet_id, status=Hold.Status.HELD, created_at__lt=moment)
    total: int = made.aggregate(total=Sum("amount", default=0))["total"]
    return total


def due() -> list[UUID]:
    """Return the references of open holds whose time has run out, longest ago first."""
    overdue = Hold.objects.filter(status=Hold.Status.HELD, expires_at__lte=Now())
    return list(overdue.order_by("expires_at").values_list("reference", flat=True))
