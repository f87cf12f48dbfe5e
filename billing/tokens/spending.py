"""What an account has spent since a day or a month began, and by which spender. Amounts are integer milli-Tokens.

Spent in a period is what was charged in it, less refunds of these charges, whenever they were made, plus all that is
held now. Charges up to a wallet's LotCursor are kept by the quarter of an hour in Spending, which `lots` brings up to
date; later ones are read from the transfers. Not for when days begin, or for caps: whoever checks one has to `lock`.
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
    """The milli-Tokens spent since the day and the month began, with what is held."""

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

# A refund counts when its charge did. Days and months begin at a quarter of an hour in every time zone.
_QUARTER = "date_bin('15 minutes', hold.resolved_at, 'epoch')"

# Reads `charge (wallet_id, reference, amount)`, refunds as negative amounts.
KEEP = f"""
INSERT INTO billing_spending (wallet_id, spender, quarter, amount)
SELECT charge.wallet_id, hold.spender, {_QUARTER}, sum(charge.amount)::bigint
FROM charge JOIN billing_hold AS hold ON hold.reference = charge.reference
GROUP BY 1, 2, 3
ON CONFLICT (wallet_id, spender, quarter) DO UPDATE SET amount = billing_spending.amount + excluded.amount
"""

_FOLLOW = f"""
WITH charge AS ({_CHARGES.format(wallet="%(wallet)s", after="%(after)s", until="%(until)s")})
{KEEP}
"""

_LOCK = "SELECT FROM billing_wallet WHERE owner = %(owner)s::uuid AND kind = 'customer' FOR NO KEY UPDATE"

_SPENT = f"""
WITH wallet AS (
    SELECT id, held, coalesce(last_transfer_id, 0) AS followed,
           %(day)s::timestamptz AS day, %(month)s::timestamptz AS month
    FROM billing_wallet LEFT JOIN billing_lotcursor ON wallet_id = id
    WHERE owner = %(owner)s::uuid AND kind = 'customer'
),
charge AS (
    SELECT spender, quarter, amount FROM billing_spending WHERE wallet_id = (SELECT id FROM wallet)
    AND quarter >= (SELECT least(day, month) FROM wallet)
    UNION ALL
    SELECT hold.spender, {_QUARTER}, charge.amount
    FROM ({_CHARGES.format(wallet="(SELECT id FROM wallet)", after="(SELECT followed FROM wallet)", until=2**63 - 1)})
        AS charge JOIN billing_hold AS hold ON hold.reference = charge.reference
),
total AS (
    SELECT coalesce(sum(amount) FILTER (WHERE quarter >= day), 0) AS day,
           coalesce(sum(amount) FILTER (WHERE quarter >= month), 0) AS month,
           coalesce(sum(amount) FILTER (WHERE quarter >= day AND spender = %(spender)s::uuid), 0) AS spender_day,
           coalesce(sum(amount) FILTER (WHERE quarter >= month AND spender = %(spender)s::uuid), 0) AS spender_month
    FROM charge, wallet
),
open AS (
    SELECT coalesce(sum(amount), 0) AS held FROM billing_hold WHERE spender = %(spender)s::uuid AND status = 'held'
)
SELECT (total.day + wallet.held)::bigint, (total.month + wallet.held)::bigint,
       (spender_day + open.held)::bigint, (spender_month + open.held)::bigint
FROM wallet, total, open
"""


def lock(owner: UUID) -> None:
    """Lock the wallet until the transaction ends: nobody else can hold, capture or receive Tokens of it meanwhile.

    A statement of its own, because a statement does not see what was committed while it waited.
    """
    run(_LOCK, {"owner": owner})


def spent(owner: UUID, spender: UUID | None, day: datetime, month: datetime) -> Spent:
    """Return what the customer, and this spender of theirs, spent since the `day` and the `month` began.

    Raises NoWallet if there is no such customer.
    """
    row = run(_SPENT, {"owner": owner, "spender": spender, "day": day, "month": month})
    if row is None:
        raise NoWallet(owner)
    return Spent(*row)


def follow(wallet_id: int, after: int, until: int) -> None:
    """Add a wallet's charges and refunds in transfers above `after`, up to `until`, to Spending. For `lots` only."""
    with connection.cursor() as cursor:
        cursor.execute(_FOLLOW, {"wallet": wallet_id, "after": after, "until": until})
