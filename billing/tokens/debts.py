"""Debts: a refunded or disputed payment takes back its lot's unspent Tokens, and the spent ones are owed.

While a debt is open, its wallet is frozen: existing holds can still be captured or released, but new ones are refused.
Balances never go below zero. Nobody owes while paid Tokens are available: whatever frees or brings Tokens to a frozen
wallet (a release, a smaller charge, an expired hold, a refund, a purchase) pays its debts at once, as does every
function here. What is left in a debt's own lot goes first, then other paid Tokens, to the oldest debt first and in part
if they are too few; gifts pay nothing. Every function locks the wallet before anything else. Not for the money itself
(payments) or for refunds of jobs (wallets).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from uuid import UUID

from django.db import transaction
from django.db.models import BigIntegerField, Case, F, Q, Sum, TextField, Value, When

from billing import clock
from billing.errors import ClawbackAbovePrice, IdempotencyMismatch, UnknownDebt, UnknownLot
from billing.models import Clawback, Draw, Lot, Transfer, Wallet
from billing.tokens import lots, takebacks
from billing.tokens.withdrawals import withdraw


def claw_back(lot_id: UUID, money_minor: int, reason: str, key: str) -> Clawback:
    """Demand back what `money_minor` of the lot's payment bought, because it was refunded or disputed.

    The result tells what was `collected` and what is `owed`; if this `key` was used before, as that stands now. Tokens
    of the lot that expired unspent are not demanded. Raises UnknownLot, ClawbackAbovePrice or IdempotencyMismatch.
    """
    if not isinstance(money_minor, int) or money_minor <= 0:
        raise ValueError("money_minor must be a positive int of the currency's smallest unit")
    return _claw_back(lot_id, Lot.Kind.PAID, money_minor, lambda lot: _demand(lot, money_minor), reason, key)


def claw_back_bonus(lot_id: UUID, amount: int, reason: str, key: str) -> Clawback:
    """Demand back `amount` milli-Tokens that were granted with a payment, because it was refunded or disputed.

    Works as `claw_back`; together, claw-backs demand no more than what did not expire. Raises UnknownLot or
    IdempotencyMismatch.
    """
    return _claw_back(lot_id, Lot.Kind.GRANTED, 0, lambda lot: _demand_bonus(lot, amount), reason, key)


def demanded(lot: Lot) -> tuple[int, int]:
    """Return (money, milli-Tokens) that the lot's claw-backs have demanded; void ones count what they had collected."""
    void = Clawback.Settlement.VOID
    money = Case(
        When(settlement=void, amount=0, then=0),
        When(settlement=void, then=F("money_minor") * F("collected") / F("amount")),
        default="money_minor",
        output_field=BigIntegerField(),
    )
    tokens = Case(When(settlement=void, then="collected"), default="amount")
    found = Clawback.objects.filter(lot=lot)
    summed = found.aggregate(money=Sum(money, default=0), tokens=Sum(tokens, default=0))
    return summed["money"], summed["tokens"]


@transaction.atomic
def pay(wallet_id: int) -> int:
    """Pay a wallet's debts as far as its Tokens suffice, and freeze it if something is still owed.

    Return the milli-Tokens paid. Expired Tokens go to the debt of their own lot, or are taken.
    """
    Wallet.objects.select_for_update(no_key=True).get(pk=wallet_id)
    found = Clawback.objects.filter(lot__wallet_id=wallet_id, settled_at=None).select_related("lot")
    owed = list(found.order_by("created_at", "id"))
    paid = sum(_collect(debt) for debt in owed)
    if owed := [debt for debt in owed if debt.owed]:
        lots.expire_in(wallet_id)
        paid += sum(_settle(debt) for debt in owed)
    if paid:
        lots.allocate(wallet_id)
    takebacks.follow(wallet_id)
    frozen = any(debt.owed for debt in owed)
    Wallet.objects.filter(pk=wallet_id).exclude(frozen=frozen).update(frozen=frozen)
    return paid


def collect() -> int:
    """Pay the debts of wallets with available Tokens, as everything that frees some has done; return milli-Tokens.

    For what a process left unpaid that freed Tokens outside a transaction and ended in between.
    """
    due = Wallet.objects.filter(frozen=True, balance__gt=F("held"))
    return lots.each(due.values_list("id", flat=True), pay)


def waive(debt_id: UUID, reason: str) -> bool:
    """Forgive what is owed, on the operator's decision; return False if it was settled before. Raises UnknownDebt."""
    return _forgive(debt_id, reason, Clawback.Settlement.WAIVED)


def void(debt_id: UUID, reason: str) -> bool:
    """Forgive what is owed because the money came back; what was not collected can be demanded again.

    Returns True as well if the debt had been waived, or was for less money than a milli-Token costs: the money had not
    gone for good. Raises UnknownDebt.
    """
    if _forgive(debt_id, reason, Clawback.Settlement.VOID):
        return True
    settled = Clawback.objects.filter(id=debt_id).exclude(settlement=Clawback.Settlement.VOID)
    settled = settled.filter(Q(settlement=Clawback.Settlement.WAIVED) | Q(amount=0))
    waiver = Case(When(waiver="", then=Value(reason)), default="waiver", output_field=TextField())
    return bool(settled.update(settlement=Clawback.Settlement.VOID, waiver=waiver))


def of(owner: UUID) -> list[Clawback]:
    """Return the customer's open debts, oldest first."""
    debts = Clawback.objects.filter(settled_at=None, lot__wallet__owner=owner)
    return list(debts.select_related("lot").order_by("created_at"))


@contextmanager
def _locked(wallet_id: int) -> Iterator[None]:
    """Hold a transaction with the wallet locked; at its end its debts are paid, or it is frozen."""
    with transaction.atomic():
        Wallet.objects.select_for_update(no_key=True).get(pk=wallet_id)
        yield
        pay(wallet_id)


@contextmanager
def _open(debt_id: UUID) -> Iterator[Clawback | None]:
    """Yield the debt with its wallet locked, or None if it is settled. Raises UnknownDebt."""
    debts = Clawback.objects.filter(id=debt_id)
    wallet_id = debts.values_list("lot__wallet_id", flat=True).first()
    if wallet_id is None:
        raise UnknownDebt(debt_id)
    with _locked(wallet_id):
        yield debts.filter(settled_at=None).select_related("lot").first()


def _claw_back(
    lot_id: UUID, kind: Lot.Kind, money_minor: int, demand: Callable[[Lot], int], reason: str, key: str
) -> Clawback:
    lot = Lot.objects.filter(id=lot_id, kind=kind).first()
    if lot is None:
        raise UnknownLot(lot_id)
    with _locked(lot.wallet_id):
        debt = Clawback.objects.filter(idempotency_key=key).select_related("lot").first()
        if debt is None:
            lots.allocate(lot.wallet_id)
            lot.refresh_from_db()
            debt = Clawback(lot=lot, money_minor=money_minor, amount=demand(lot), reason=reason, idempotency_key=key)
            if debt.amount:
                debt.save()
            else:
                _close(debt, Clawback.Settlement.COLLECTED)
        elif (debt.lot_id, debt.money_minor) != (lot_id, money_minor):
            raise IdempotencyMismatch(key)
    debt.refresh_from_db()
    return debt


def _forgive(debt_id: UUID, reason: str, how: Clawback.Settlement) -> bool:
    if not reason:
        raise ValueError("a waiver needs a reason")
    with _open(debt_id) as debt:
        if debt is not None:
            debt.waiver = reason
            _close(debt, how)
        return debt is not None


def _demand(lot: Lot, money_minor: int) -> int:
    """Return the milli-Tokens that this money bought, counting unspent ones first, then expired ones, then spent ones.

    Rounded down over all claw-backs of the lot together, so that the whole price demands the whole lot.
    """
    price = lot.price_minor or 0
    earlier_money, earlier = demanded(lot)
    if (money := earlier_money + money_minor) > price:
        raise ClawbackAbovePrice(lot.id)
    share: int = lot.amount * money // price
    return max(0, share - _expired_unspent(lot, share) - earlier)


def _demand_bonus(lot: Lot, amount: int) -> int:
    _, earlier = demanded(lot)
    return max(0, min(amount, lot.amount - _expired_unspent(lot, lot.amount) - earlier))


def _expired_unspent(lot: Lot, share: int) -> int:
    """Return how much of this share expired unspent: at most what the lot's unspent part does not cover."""
    drawn = dict(Draw.objects.filter(lot=lot).values_list("transfer__kind").annotate(Sum("amount")))
    unspent = lot.remaining + int(drawn.get(Transfer.Kind.CLAWBACK, 0))
    return min(int(drawn.get(Transfer.Kind.EXPIRY, 0)), max(0, share - unspent))


def _collect(debt: Clawback) -> int:
    """Take what is left in the debt's own lot and not held; return how many milli-Tokens."""
    now = lots.allocate(debt.lot.wallet_id)
    left = next((lot.remaining for lot in now.lots if lot.id == debt.lot_id), 0)
    amount: int = min(debt.owed, left, now.balance.available)
    return _take(debt, amount, Transfer.Kind.CLAWBACK, debt.lot_id, Clawback.Settlement.COLLECTED)


def _settle(debt: Clawback) -> int:
    """Take from other paid lots what is not held, in part if that is too little; return how many milli-Tokens."""
    now = lots.allocate(debt.lot.wallet_id)
    paid = sum(lot.remaining for lot in now.lots if lot.kind == Lot.Kind.PAID)
    amount: int = min(debt.owed, paid, now.balance.available)
    return _take(debt, amount, Transfer.Kind.SETTLEMENT, debt.id, Clawback.Settlement.PAID)


def _take(debt: Clawback, amount: int, kind: Transfer.Kind, reference: UUID, last: Clawback.Settlement) -> int:
    """Withdraw an amount, which may be 0, for a debt; if nothing is owed then, `last` says how it was settled."""
    if amount:
        withdraw(debt.lot.wallet_id, kind, amount, reference, f"{kind.value}:{debt.id}:{debt.collected}")
        debt.collected += amount
        if debt.owed:
            debt.save()
        else:
            _close(debt, last)
    return amount


def _close(debt: Clawback, how: Clawback.Settlement) -> None:
    debt.settled_at, debt.settlement = clock.now(), how
    debt.save()
