"""What an account has spent, by day and by spender. Amounts are integer milli-Tokens.

Spent in a period (UTC) is what was charged in it, less refunds of these charges, whenever they were made, plus all that
is held now. Charges up to a wallet's LotCursor are kept by day in Spending, which `lots` brings up to date; later ones
are read from the transfers. Not for caps: whoever checks one asks `spent` to lock the wallet first.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from django.db import connection

from billing.errors import NoWallet
from billing.prepared import run


@dataclass(frozen=True)
class Spent:
    """The milli-Tokens spent in the day and the month of `moment`, with what is held."""

    moment: datetime
    day: int
    month: int
    spender_day: int
    spender_month: int


# A wallet's charges and refunds, from transfers after one id and up to another.
_CHARGES = """
    SELECT source_id AS wallet_id, reference, amount FROM billing_transfer
    WHERE source_id = {wallet} AND id > {after} AND id <= {until} AND kind = 'capture'
    UNION ALL
    SELECT target_id, reference, -amount FROM billing_transfer
    WHERE target_id = {wallet} AND id > {after} AND id <= {until} AND kind = 'refund'"""

# A refund counts for the day of its charge.
_DAY = "(hold.resolved_at AT TIME ZONE 'UTC')::date"

# Reads `charge (wallet_id, reference, amount)`, refunds as negative amounts.
KEEP = f"""
INSERT INTO billing_spending (wallet_id, spender, day, amount)
SELECT charge.wallet_id, hold.spender, {_DAY}, sum(charge.amount)::bigint
FROM charge JOIN billing_hold AS hold ON hold.reference = charge.reference
GROUP BY 1, 2, 3
ON CONFLICT (wallet_id, spender, day) DO UPDATE SET amount = billing_spending.amount + excluded.amount
"""

_FOLLOW = f"""
WITH charge AS ({_CHARGES.format(wallet="%(wallet)s", after="%(after)s", until="%(until)s")})
{KEEP}
"""

_LOCK = "SELECT FROM billing_wallet WHERE owner = %(owner)s::uuid AND kind = 'customer' FOR NO KEY UPDATE"

_SPENT = f"""
WITH wallet AS (
    SELECT id, held, coalesce(last_transfer_id, 0) AS followed, statement_timestamp() AS moment,
           (statement_timestamp() AT TIME ZONE 'UTC')::date AS today
    FROM billing_wallet LEFT JOIN billing_lotcursor ON wallet_id = id
    WHERE owner = %(owner)s::uuid AND kind = 'customer'
),
charge AS (
    SELECT spender, day, amount FROM billing_spending WHERE wallet_id = (SELECT id FROM wallet)
    AND day >= (SELECT date_trunc('month', today)::date FROM wallet)
    UNION ALL
    SELECT hold.spender, {_DAY}, charge.amount
    FROM ({_CHARGES.format(wallet="(SELECT id FROM wallet)", after="(SELECT followed FROM wallet)", until=2**63 - 1)})
        AS charge JOIN billing_hold AS hold ON hold.reference = charge.reference
),
total AS (
    SELECT coalesce(sum(amount) FILTER (WHERE day = today), 0) AS day,
           coalesce(sum(amount), 0) AS month,
           coalesce(sum(amount) FILTER (WHERE day = today AND spender = %(spender)s::uuid), 0) AS spender_day,
           coalesce(sum(amount) FILTER (WHERE spender = %(spender)s::uuid), 0) AS spender_month
    FROM charge, wallet WHERE day >= date_trunc('month', today)
),
open AS (
    SELECT coalesce(sum(amount), 0) AS held FROM billing_hold WHERE spender = %(spender)s::uuid AND status = 'held'
)
SELECT moment, (day + wallet.held)::bigint, (month + wallet.held)::bigint,
       (spender_day + open.held)::bigint, (spender_month + open.held)::bigint
FROM wallet, total, open
"""


def spent(owner: UUID, spender: UUID | None, *, lock: bool = False) -> Spent:
    """Return what the customer spent, and this spender of theirs. Raises NoWallet if there is no such customer.

    With `lock` it stays true until the transaction ends: nobody else can hold, capture or receive Tokens of the wallet.
    The lock is a statement of its own, because a statement does not see what was committed while it waited.
    """
    if lock:
        run(_LOCK, {"owner": owner})
    row = run(_SPENT, {"owner": owner, "spender": spender})
    if row is None:
        raise NoWallet(owner)
    return Spent(*row)


def follow(wallet_id: int, after: int, until: int) -> None:
    """Add a wallet's charges and refunds in transfers above `after`, up to `until`, to Spending. For `lots` only."""
    with connection.cursor() as cursor:
        cursor.execute(_FOLLOW, {"wallet": wallet_id, "after": after, "until": until})
