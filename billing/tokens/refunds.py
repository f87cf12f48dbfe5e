"""Refunds of charges: Tokens go back to the customer, from the platform and the makers as they got them.

One transaction, with the hold locked first, then the customer's wallet, then the makers'. Not for money that goes back
(payments), whose Tokens `debts` demands.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple
from uuid import UUID

from django.db import IntegrityError, transaction
from psycopg.errors import UniqueViolation

from billing.errors import IdempotencyMismatch, RefundAboveCapture, UnknownHold
from billing.models import PLATFORM_ID, Transfer
from billing.prepared import rows, run
from billing.tokens import debts, earnings, ledger, lots, takebacks
from billing.tokens.takebacks import Charged

_LOCK = """
SELECT wallet.id, captured - refunded FROM billing_hold AS hold
JOIN billing_wallet AS wallet ON wallet.id = hold.wallet_id
WHERE hold.reference = %(reference)s::uuid
FOR NO KEY UPDATE
"""

_CHARGED = """
SELECT CASE kind WHEN 'capture' THEN target_id ELSE source_id END,
       coalesce(sum(amount) FILTER (WHERE kind = 'capture'), 0)::bigint,
       coalesce(sum(amount) FILTER (WHERE kind = 'refund'), 0)::bigint
FROM billing_transfer WHERE reference = %(reference)s::uuid AND kind IN ('capture', 'refund')
GROUP BY 1 ORDER BY min(id)
"""

_REFUND = f"""
WITH target AS (
    SELECT wallet.id, hold.reference, wallet.balance FROM billing_hold AS hold
    JOIN billing_wallet AS wallet ON wallet.id = hold.wallet_id WHERE hold.reference = %(reference)s::uuid
),
{ledger.REFUNDS},
marked AS (
    UPDATE billing_hold SET refunded = refunded + %(amount)s::bigint WHERE reference = %(reference)s::uuid
)
UPDATE billing_wallet SET balance = billing_wallet.balance + %(amount)s::bigint
FROM target WHERE billing_wallet.id = target.id
RETURNING frozen
"""


class Refund(NamedTuple):
    """What is to be refunded of the charge under `reference`; `key` as it is stored."""

    reference: UUID
    amount: int
    key: str
    memo: str


def make(refund: Refund) -> bool:
    """Give a refund back, once for its key; return False if that was done before.

    Raises UnknownHold, RefundAboveCapture or IdempotencyMismatch.
    """
    try:
        return _make(refund)
    except IntegrityError as error:  # somebody else used the key at the same time
        if not isinstance(error.__cause__, UniqueViolation):
            raise
        raise IdempotencyMismatch(refund.key) from error


@transaction.atomic
def _make(refund: Refund) -> bool:
    locked = run(_LOCK, {"reference": refund.reference})
    if locked is None:
        raise UnknownHold(refund.reference)
    wallet_id, most = locked
    charged = [Charged(*row) for row in rows(_CHARGED, {"reference": refund.reference})]
    if _is_done(refund, charged):
        return False
    if refund.amount > most:
        raise RefundAboveCapture(refund.reference)
    makers = [part.wallet for part in charged if part.wallet != PLATFORM_ID]
    if makers:
        lots.allocate(wallet_id)
    with earnings.locked(makers):
        frozen = _give(refund, takebacks.apportion(charged, refund.amount))
        if makers:
            lots.allocate(wallet_id)
        if frozen:
            debts.pay(wallet_id)
        takebacks.settle(makers)
    return True


def _is_done(refund: Refund, charged: Sequence[Charged]) -> bool:
    """Return whether the key was used before. Raises IdempotencyMismatch if it was for something else."""
    keys = [refund.key, *(_part_key(refund, part.wallet) for part in charged)]
    found = Transfer.objects.filter(idempotency_key__in=keys).values_list("reference", "amount")
    done = list(found)
    if done and ({reference for reference, _ in done}, sum(amount for _, amount in done)) != (
        {refund.reference},
        refund.amount,
    ):
        raise IdempotencyMismatch(refund.key)
    return bool(done)


def _give(refund: Refund, parts: dict[int, int]) -> bool:
    """Write the refund's transfers, the first of them under its key; return whether the wallet is frozen."""
    keys = [refund.key, *(_part_key(refund, wallet) for wallet in list(parts)[1:])]
    values = {
        "reference": refund.reference, "amount": refund.amount, "memo": refund.memo, "sources": list(parts),
        "amounts": list(parts.values()), "laters": [refund.amount - so_far for so_far in accumulate(parts.values())],
        "keys": keys,
    }  # fmt: skip
    frozen = run(_REFUND, values)
    assert frozen is not None, "the hold is locked"
    return bool(frozen[0])


def _part_key(refund: Refund, wallet: int) -> str:
    return f"part of {wallet}, {refund.key}"
