"""Take-backs: what makers earned goes back with the refund of its job, and is away while its lot's payment is owed.

One rule: a maker bears the same part of what goes back as of what was charged, whatever became of the earning since. A
refund takes its part for good. While the customer owes for a lot (debts), each earning that it paid is away in the same
proportion; whatever settles the debt, be it the money that came back, other Tokens or the operator's waiver, gives it
back. A maker's wallet never goes below zero: what had left a purse is advanced by the platform, and recovered from
whatever comes into that purse later. Every function needs the customer's wallet locked, and locks the makers' after it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from uuid import UUID, uuid4

from django.db import connection
from django.db.models import F

from billing.models import PLATFORM_ID, Purse, Transfer
from billing.tokens import earnings, ledger


@dataclass(frozen=True)
class Charged:
    """What a wallet got of a charge, and what refunds took `back` of it."""

    wallet: int
    amount: int
    back: int


# Earnings of a customer's lots that should be away to another extent than they are. What a lot's claw-backs are owed is
# borne by what was drawn from it to be spent.
_OWED = """
WITH concerned AS (
    SELECT lot_id FROM billing_clawback JOIN billing_lot lot ON lot.id = lot_id
    WHERE lot.wallet_id = %(wallet)s AND settled_at IS NULL
    UNION
    SELECT lot_id FROM billing_earning JOIN billing_lot lot ON lot.id = lot_id
    WHERE lot.wallet_id = %(wallet)s AND owed > 0
),
lot AS (
    SELECT lot_id,
           (SELECT coalesce(sum(amount - collected), 0) FROM billing_clawback debt
            WHERE debt.lot_id = concerned.lot_id AND settled_at IS NULL) AS owed,
           (SELECT coalesce(sum(draw.amount), 0) FROM billing_draw draw
            JOIN billing_transfer move ON move.id = draw.transfer_id
            WHERE draw.lot_id = concerned.lot_id AND move.kind IN ('capture', 'refund', 'settlement')) AS spent
    FROM concerned
),
due AS (
    SELECT earning.id, earning.lot_id, maker_id, earning.owed AS before, earning.owed_minor AS before_minor,
           CASE WHEN spent = 0 THEN 0
                ELSE div((amount - back) * least(lot.owed, spent), spent)::bigint END AS owed,
           amount - back AS kept, money_minor - back_minor AS kept_minor
    FROM billing_earning earning JOIN lot USING (lot_id)
)
SELECT id, lot_id, maker_id, before, owed,
       CASE WHEN kept = 0 THEN 0 ELSE div(kept_minor::numeric * owed, kept)::bigint END
FROM due
"""

_SET_OWED = """
UPDATE billing_earning SET owed = due.owed, owed_minor = due.owed_minor
FROM unnest(%s::bigint[], %s::bigint[], %s::bigint[]) AS due (id, owed, owed_minor)
WHERE billing_earning.id = due.id AND (billing_earning.owed, billing_earning.owed_minor)
                                      IS DISTINCT FROM (due.owed, due.owed_minor)
"""


def apportion(parts: Sequence[Charged], amount: int) -> dict[int, int]:
    """Return what each wallet gives of a refund: makers their share of all that was refunded, rounded down.

    The platform gives what remains. Where it has nothing left, because it paid what was rounded before, makers do. The
    whole refund takes from each exactly what it got, and no part ever more than that.
    """
    total = sum(part.amount for part in parts)
    refunded = sum(part.back for part in parts) + amount
    assert refunded <= total, "a refund is within the charge"
    room = {part.wallet: part.amount - part.back for part in parts}
    given = dict.fromkeys(room, 0)
    due = [(part.wallet, max(0, part.amount * refunded // total - part.back)) for part in parts]
    makers = [each for each in due if each[0] != PLATFORM_ID]
    for wallet, most in [*makers, *sorted(room.items(), key=lambda each: each[0] != PLATFORM_ID)]:
        part = min(amount, most, room[wallet] - given[wallet])
        given[wallet] += part
        amount -= part
    return {wallet: part for wallet, part in given.items() if part}


def follow(wallet_id: int) -> None:
    """Take away what a customer owes of the earnings that their lots paid, and give back what is owed no more."""
    with connection.cursor() as cursor:
        cursor.execute(_OWED, {"wallet": wallet_id})
        if not (makers := sorted({row[2] for row in cursor.fetchall()})):
            return
        with earnings.locked(makers):
            cursor.execute(_OWED, {"wallet": wallet_id})
            due = cursor.fetchall()
            cursor.execute(_SET_OWED, [[row[column] for row in due] for column in (0, 4, 5)])
            _move_owed(due)
            settle(makers)


def settle(makers: Iterable[int]) -> None:
    """Have the platform advance what is missing in the purses of locked makers, or recover what it advanced."""
    for maker_id in makers:
        for standing in earnings.purses(maker_id):
            if change := max(0, -standing.amount) - standing.advanced:
                _advance(maker_id, standing.currency, change)


def recover() -> int:
    """Recover what was advanced from earnings that came since; return for how many makers there was something."""
    makers = list(Purse.objects.filter(advanced__gt=0).values_list("maker_id", flat=True).distinct())
    for maker_id in makers:
        with earnings.locked([maker_id]):
            settle([maker_id])
    return len(makers)


def _move_owed(due: list[tuple[int, UUID, int, int, int, int]]) -> None:
    """Move what is newly away to the platform and what is not any more to its maker, a transfer a lot and maker."""
    changes: dict[tuple[UUID, int], int] = {}
    for _, lot_id, maker_id, before, owed, _ in due:
        changes[lot_id, maker_id] = changes.get((lot_id, maker_id), 0) + owed - before
    for (lot_id, maker_id), change in changes.items():
        if change > 0:
            ledger.move(maker_id, PLATFORM_ID, change, Transfer.Kind.TAKEBACK, lot_id, f"takeback:{uuid4()}")
        elif change < 0:
            ledger.move(PLATFORM_ID, maker_id, -change, Transfer.Kind.GIVEBACK, lot_id, f"giveback:{uuid4()}")


def _advance(maker_id: int, currency: str, change: int) -> None:
    purse, _ = Purse.objects.get_or_create(maker_id=maker_id, currency=currency)
    Purse.objects.filter(pk=purse.pk).update(advanced=F("advanced") + change, moves=F("moves") + 1)
    key = f"{purse.pk}:{purse.moves}"
    if change > 0:
        ledger.move(PLATFORM_ID, maker_id, change, Transfer.Kind.ADVANCE, None, f"advance:{key}")
    else:
        ledger.move(maker_id, PLATFORM_ID, -change, Transfer.Kind.RECOVERY, None, f"recovery:{key}")
