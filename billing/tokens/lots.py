"""Lots: which Tokens were spent, what they cost, and when they expire. Amounts are integer milli-Tokens.

Lots follow the ledger, so that they never slow it down. A wallet's transfers are numbered in the order in which they
commit, because every operation locks the wallet first, so what each drew from which lot is a fold over them in that
order. The fold runs behind a cursor per wallet, in chunks; holds and captures do not depend on it. Locks are taken
wallet first, then cursor; code that holds only the cursor never asks for the wallet. Not for taking back Tokens of a
refunded or disputed payment (debts).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from operator import itemgetter
from typing import NamedTuple
from uuid import UUID

from django.db import connection, transaction
from django.db.models import F, Min, Sum
from django.db.models.functions import Now

from billing.errors import NoWallet, UnknownHold
from billing.models import Draw, Hold, Lot, LotCursor, Transfer, Wallet
from billing.tokens import earnings, holds, runs, spending
from billing.tokens.withdrawals import withdraw

CHUNK = 1_000
# How long Tokens refunded into an expired lot can be spent.
GRACE = timedelta(days=30)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Balance:
    """A wallet's milli-Tokens: `total` is what it has, `available` what is not held."""

    available: int
    held: int
    total: int


@dataclass(frozen=True)
class Position:
    """A wallet at one moment: its balance, and its lots in the order in which they are spent."""

    moment: datetime
    last_transfer_id: int
    balance: Balance
    lots: list[Lot]


@dataclass(frozen=True)
class Part:
    """What a job took from one lot and did not get back: `amount` in milli-Tokens, and their share of the price."""

    lot: UUID
    kind: str
    currency: str
    amount: int
    money_minor: int


@dataclass(frozen=True)
class Cost:
    """What a job cost: `money` by currency in its smallest unit, empty if granted Tokens paid for everything."""

    money: dict[str, int]
    parts: list[Part]


class _Move(NamedTuple):
    """The columns of a transfer that lots depend on."""

    id: int
    kind: str
    amount: int
    reference: UUID | None
    created_at: datetime
    other: int


@dataclass
class _Taken:
    """What a job took from a lot (milli-Tokens, money) for one wallet, and how many of the Tokens it got `back`."""

    lot: Lot
    amount: int = 0
    money: int = 0
    back: int = 0


# One snapshot: if these are all transfers beyond the cursor, lots and balance agree after applying them.
_BEHIND = """
SELECT statement_timestamp(), wallet.balance - wallet.held, wallet.held, wallet.balance,
       move.id, move.kind, move.amount, move.reference, move.created_at, move.other
FROM billing_wallet AS wallet LEFT JOIN (
    (SELECT id, kind, amount, reference, created_at, source_id AS other FROM billing_transfer
     WHERE target_id = %(wallet)s AND id > %(after)s ORDER BY id LIMIT %(limit)s)
    UNION ALL
    (SELECT id, kind, amount, reference, created_at, target_id FROM billing_transfer
     WHERE source_id = %(wallet)s AND id > %(after)s ORDER BY id LIMIT %(limit)s)
    ORDER BY id LIMIT %(limit)s
) AS move ON true
WHERE wallet.id = %(wallet)s
ORDER BY move.id
"""

_TAKEN = """
SELECT transfer.reference, CASE transfer.kind WHEN 'refund' THEN source_id ELSE target_id END, draw.lot_id,
       sum(draw.amount) FILTER (WHERE draw.amount > 0)::bigint,
       sum(draw.money_minor) FILTER (WHERE draw.amount > 0)::bigint,
       -coalesce(sum(draw.amount) FILTER (WHERE draw.amount < 0), 0)::bigint
FROM billing_transfer AS transfer JOIN billing_draw AS draw ON draw.transfer_id = transfer.id
WHERE transfer.reference = ANY (%(references)s)
GROUP BY 1, 2, 3 ORDER BY min(draw.id)
"""

_DRAWS = """
INSERT INTO billing_draw (lot_id, transfer_id, amount, money_minor)
SELECT * FROM unnest(%s::uuid[], %s::bigint[], %s::bigint[], %s::bigint[])
"""

_RECENT = """
WITH moved AS (
    SELECT CASE WHEN kind IN ('grant', 'purchase', 'refund', 'exchange') THEN target_id ELSE source_id END AS wallet_id,
           max(id) AS id
    FROM billing_transfer WHERE created_at > statement_timestamp() - interval '10 minutes'
    GROUP BY 1
)
SELECT wallet.id FROM moved JOIN billing_wallet AS wallet ON wallet.id = moved.wallet_id AND wallet.kind = 'customer'
LEFT JOIN billing_lotcursor AS cursor ON cursor.wallet_id = wallet.id
WHERE moved.id > coalesce(cursor.last_transfer_id, 0)
"""


def allocate(wallet_id: int) -> Position:
    """Apply every outstanding transfer to the lots, CHUNK per transaction; return where the wallet stands then.

    Safe to call at any time, also inside a transaction; a transaction that locks the wallet too must have done so
    before.
    """
    while True:
        with transaction.atomic():
            if (position := _advance(wallet_id)) is not None:
                return position


def position(owner: UUID) -> Position:
    """Allocate a customer's wallet, take what has expired, and return where it stands. Raises NoWallet."""
    wallet_id = Wallet.objects.filter(owner=owner, kind=Wallet.Kind.CUSTOMER).values_list("id", flat=True).first()
    if wallet_id is None:
        raise NoWallet(owner)
    now = allocate(wallet_id)
    if now.balance.available and _expired(now):
        expire_in(wallet_id)
        now = allocate(wallet_id)
    return now


def cost(reference: UUID) -> Cost:
    """Return what the job under this hold cost, less refunds, and the lots that paid for it. Raises UnknownHold."""
    wallet_id = Hold.objects.filter(reference=reference).values_list("wallet_id", flat=True).first()
    if wallet_id is None:
        raise UnknownHold(reference)
    allocate(wallet_id)
    drawn = Draw.objects.filter(transfer__reference=reference).values_list("lot_id", "lot__kind", "lot__currency")
    summed = drawn.annotate(net=Sum("amount"), net_minor=Sum("money_minor"), first=Min("id")).order_by("first")
    parts = [Part(*row[:5]) for row in summed.exclude(net=0)]
    money: dict[str, int] = {}
    for part in parts:
        if part.kind == Lot.Kind.PAID:
            money[part.currency] = money.get(part.currency, 0) + part.money_minor
    return Cost(money, parts)


def catch_up() -> int:
    """Allocate the wallets with recent transfers; return how many.

    A wallet that is missed follows at its next transfer, or when somebody asks for it.
    """
    with connection.cursor() as cursor:
        cursor.execute(_RECENT)
        found = [wallet_id for (wallet_id,) in cursor.fetchall()]
    followed = runs.follow(found)
    return len(followed) + each(set(found) - followed, lambda wallet_id: bool(allocate(wallet_id)))


def expire() -> int:
    """Take back what is left of expired lots, wallet by wallet; return how many milli-Tokens.

    Held Tokens stay until their hold is resolved, and are taken then. Nobody waits for this: whoever looks at a wallet
    or holds its Tokens takes what has expired first.
    """
    due = Lot.objects.filter(remaining__gt=0, expires_at__lte=Now(), wallet__balance__gt=F("wallet__held"))
    return each(due.order_by().values_list("wallet_id", flat=True).distinct(), expire_in)


def expire_of(owner: UUID) -> bool:
    """Take back what is left of a customer's expired lots; return False if they had none."""
    due = Lot.objects.filter(wallet__owner=owner, remaining__gt=0, expires_at__lte=Now())
    wallet_id = due.values_list("wallet_id", flat=True).first()
    if wallet_id is not None:
        expire_in(wallet_id)
    return wallet_id is not None


@transaction.atomic
def expire_in(wallet_id: int) -> int:
    """Take back what is left of a wallet's expired lots and not held; return how many milli-Tokens.

    What expires first was held first: a hold keeps the Tokens of lots that expired after it was made.
    """
    Wallet.objects.select_for_update(no_key=True).get(pk=wallet_id)
    now = allocate(wallet_id)
    available, kept = now.balance.available, 0
    for expires_at, lot in sorted(_expired(now), key=itemgetter(0)):
        keeps = min(lot.remaining, max(0, holds.made_before(wallet_id, expires_at) - kept))
        kept += keeps
        if amount := min(lot.remaining - keeps, available):
            key = f"expiry:{lot.id}:{now.last_transfer_id}"
            withdraw(wallet_id, Transfer.Kind.EXPIRY, amount, lot.id, key)
            available -= amount
    if available < now.balance.available:
        allocate(wallet_id)
    return now.balance.available - available


def _expired(now: Position) -> list[tuple[datetime, Lot]]:
    return [(lot.expires_at, lot) for lot in now.lots if lot.expires_at and lot.expires_at <= now.moment]


def each(wallet_ids: Iterable[int], work: Callable[[int], int]) -> int:
    """Return the sum of the work on each wallet; a failure is logged and does not stop the others."""
    done = 0
    for wallet_id in wallet_ids:
        try:
            done += work(wallet_id)
        except Exception:
            logger.exception("lots of wallet %s", wallet_id)
    return done


def _advance(wallet_id: int) -> Position | None:
    """Process one chunk; return None if more may follow."""
    cursor, _ = LotCursor.objects.select_for_update().get_or_create(wallet_id=wallet_id)
    with connection.cursor() as database:
        database.execute(_BEHIND, {"wallet": wallet_id, "after": cursor.last_transfer_id, "limit": CHUNK})
        rows = database.fetchall()
    moves = [_Move(*row[4:]) for row in rows if row[4] is not None]
    if moves:
        spending.follow(wallet_id, after=cursor.last_transfer_id, until=moves[-1].id)
        cursor.last_transfer_id = moves[-1].id
        _fold(wallet_id, moves)
        earnings.follow(wallet_id, moves[0].id, moves[-1].id)
        cursor.save()
    if len(moves) == CHUNK:
        return None
    moment, *balance = rows[0][:4]
    lots = sorted(_open(wallet_id, cursor.last_transfer_id), key=lambda lot: _rank(lot, moment))
    return Position(moment, cursor.last_transfer_id, Balance(*balance), lots)


def _open(wallet_id: int, last_transfer_id: int) -> list[Lot]:
    return list(Lot.objects.filter(wallet_id=wallet_id, remaining__gt=0, transfer_id__lte=last_transfer_id))


def _fold(wallet_id: int, moves: list[_Move]) -> None:
    """Apply the transfers to the lots in order, and write the resulting lots and draws."""
    refunded = [(move.reference, move.other) for move in moves if move.kind == Transfer.Kind.REFUND]
    fold = _Fold(_open(wallet_id, moves[-1].id), refunded)
    for move in moves:
        fold.apply(move)
    if fold.draws:
        with connection.cursor() as database:
            database.execute(_DRAWS, [list(column) for column in zip(*fold.draws, strict=True)])
    drawn = {lot_id for lot_id, *_ in fold.draws}
    Lot.objects.bulk_update(
        [lot for lot in fold.lots.values() if lot.id in drawn], ["remaining", "spent_minor", "expires_at"]
    )


class _Fold:
    """Lots while transfers are applied to them, and the draws that result."""

    def __init__(self, lots: list[Lot], refunded: list[tuple[UUID | None, int]]) -> None:
        self.lots = {lot.id: lot for lot in lots}
        self.draws: list[tuple[UUID, int, int, int]] = []
        # By the job and the wallet that was paid: what is refunded from a wallet was drawn for that wallet.
        self.taken: dict[tuple[UUID | None, int], dict[UUID, _Taken]] = {each: {} for each in refunded}
        with connection.cursor() as database:
            database.execute(_TAKEN, {"references": [reference for reference, _ in self.taken]})
            rows = [row for row in database.fetchall() if row[:2] in self.taken] if refunded else []
        self.lots |= Lot.objects.in_bulk({row[2] for row in rows} - self.lots.keys())
        for reference, other, lot_id, amount, money, back in rows:
            self.taken[reference, other][lot_id] = _Taken(self.lots[lot_id], amount, money, back)

    def apply(self, move: _Move) -> None:
        match move.kind:
            case Transfer.Kind.CAPTURE:
                self._spend(move, self.lots.values())
            case Transfer.Kind.SETTLEMENT:
                self._spend(move, [lot for lot in self.lots.values() if lot.kind == Lot.Kind.PAID])
            case Transfer.Kind.EXPIRY | Transfer.Kind.CLAWBACK if move.reference:
                self._draw(move, self.lots[move.reference], move.amount)
            case Transfer.Kind.REFUND:
                self._put_back(move)

    def _spend(self, move: _Move, lots: Iterable[Lot]) -> None:
        left = move.amount
        while left:
            spendable = [lot for lot in lots if lot.remaining and lot.transfer_id < move.id]
            assert spendable, f"transfer {move.id}: the lots are short of {left} of its {move.amount} milli-Tokens"
            lot = min(spendable, key=lambda lot: _rank(lot, move.created_at))
            amount = min(left, lot.remaining)
            self._draw(move, lot, amount)
            left -= amount

    def _draw(self, move: _Move, lot: Lot, amount: int) -> None:
        """Take Tokens from a lot with their share of its price.

        The share is rounded down cumulatively, so that the whole price is gone with the last Token.
        """
        price, drawn = lot.price_minor or 0, lot.amount - lot.remaining + amount
        money = max(0, price * drawn // lot.amount - lot.spent_minor)
        self._move(move, lot, amount, money)
        if (paid := self.taken.get((move.reference, move.other))) is not None:
            taken = paid.setdefault(lot.id, _Taken(lot))
            taken.amount += amount
            taken.money += money

    def _put_back(self, move: _Move) -> None:
        """Return a refund to the lots that were drawn from, last one first, with the same share of the money."""
        left = move.amount
        for taken in reversed(self.taken[move.reference, move.other].values()):
            if not (amount := min(left, taken.amount - taken.back)):
                continue
            before, after = (taken.money * back // taken.amount for back in (taken.back, taken.back + amount))
            if _is_past(taken.lot, move.created_at):
                taken.lot.expires_at = move.created_at + GRACE
            self._move(move, taken.lot, -amount, before - after)
            taken.back += amount
            left -= amount
        assert not left, f"transfer {move.id}: it refunds {left} milli-Tokens more than were taken"

    def _move(self, move: _Move, lot: Lot, amount: int, money: int) -> None:
        lot.remaining -= amount
        lot.spent_minor += money
        self.draws.append((lot.id, move.id, amount, money))


def _rank(lot: Lot, moment: datetime) -> tuple[bool, bool, bool, datetime, int]:
    """Return the key of the spending order: expired while held first, then granted, soonest to expire, oldest."""
    never = lot.expires_at is None
    return not _is_past(lot, moment), lot.kind == Lot.Kind.PAID, never, lot.expires_at or moment, lot.transfer_id


def _is_past(lot: Lot, moment: datetime) -> bool:
    return lot.expires_at is not None and lot.expires_at <= moment
