"""Payments that go back: what was not spent is taken, what was spent is owed, and nothing ever goes below zero."""

from datetime import timedelta
from uuid import UUID, uuid4

import pytest
from django.utils import timezone

from billing.errors import (
    AccountFrozen,
    ClawbackAbovePrice,
    IdempotencyMismatch,
    UnknownDebt,
    UnknownLot,
)
from billing.models import MINT_ID, Clawback, Lot, Transfer, Wallet
from billing.tokens import debts, ledger, lots, proof, wallets
from billing.tokens.wallets import Balance
from marketplace.celery import app
from marketplace.maintenance import tasks
from tests.billing.books import HOUR, lapse, nothing_moves

pytestmark = pytest.mark.django_db

TOMORROW = timezone.now() + timedelta(days=1)


def spend(owner: UUID, amount: int) -> UUID:
    """The reference of a job that is done."""
    wallets.hold(owner, amount, reference := uuid4(), HOUR)
    wallets.capture(reference, amount)
    return reference


def buy(owner: UUID, amount: int = 1_000, price: int = 100, **terms) -> UUID:
    return wallets.purchase(owner, amount, price, "eur", f"payment {uuid4()}", **terms)


def frozen(owner: UUID) -> bool:
    assert proof.check() == []
    lots.position(owner)
    assert proof.check() == []
    return Wallet.objects.get(owner=owner, kind="customer").frozen


def total(owner: UUID) -> int:
    return wallets.balance(owner).total


def test_a_payment_that_goes_back_takes_its_tokens_with_it(bob):
    lot = buy(bob)
    wallets.grant(bob, 50, "given")
    back = debts.claw_back(lot, 100, "refunded", "re_1")
    assert (back.collected, back.owed, back.settlement) == (1_000, 0, "collected")
    assert (total(bob), frozen(bob), debts.of(bob)) == (50, False, [])
    (entry, *_) = ledger.statement(bob)
    assert (entry.kind, entry.amount, entry.reference) == ("clawback", -1_000, lot)


def test_what_was_spent_is_a_stated_debt_and_the_account_is_frozen(bob):
    lot = buy(bob)
    spend(bob, 300)
    wallets.grant(bob, 50, "given")
    back = debts.claw_back(lot, 100, "dispute: fraudulent", "dp_1")
    assert (back.collected, back.owed, back.owed_minor) == (700, 300, 30)
    assert (total(bob), frozen(bob)) == (50, True)
    (debt,) = debts.of(bob)
    assert (debt.id, debt.owed, debt.reason, debt.lot.currency) == (back.id, 300, "dispute: fraudulent", "eur")


def test_a_claw_back_sent_twice_takes_once(bob):
    lot = buy(bob)
    first = debts.claw_back(lot, 40, "refunded", "re_1")
    with nothing_moves():
        again = debts.claw_back(lot, 40, "refunded", "re_1")
        assert (again.id, again.collected) == (first.id, 400)
    for other in ((lot, 41), (buy(bob), 40)):
        with nothing_moves(), pytest.raises(IdempotencyMismatch):
            debts.claw_back(*other, "refunded", "re_1")


def test_parts_of_a_payment_take_parts_of_the_lot_and_together_all_of_it(bob):
    lot = buy(bob, amount=1_000, price=7)
    taken = [debts.claw_back(lot, 1, "refunded", f"re_{number}").collected for number in range(7)]
    assert (sum(taken), total(bob)) == (1_000, 0)
    assert max(taken) - min(taken) <= 1
    with nothing_moves(), pytest.raises(ClawbackAbovePrice):
        debts.claw_back(lot, 1, "refunded", "re_8")
    assert not frozen(bob)


def test_a_part_that_went_back_is_taken_from_what_is_left(bob):
    lot = buy(bob)
    spend(bob, 300)
    assert debts.claw_back(lot, 50, "refunded", "re_1").collected == 500
    assert (total(bob), frozen(bob)) == (200, False)
    back = debts.claw_back(lot, 50, "refunded", "re_2")
    assert (back.collected, back.owed) == (200, 300)


def test_what_expired_unspent_is_not_owed(bob):
    lot = buy(bob, expires_at=TOMORROW)
    spend(bob, 300)
    lapse()
    lots.expire()
    half = debts.claw_back(lot, 50, "refunded", "re_1")
    assert (half.collected, half.owed) == (0, 0)
    rest = debts.claw_back(lot, 50, "refunded", "re_2")
    assert (rest.collected, rest.owed) == (0, 300)


@pytest.mark.parametrize("money", [0, -1, 1.5])
def test_money_that_goes_back_is_whole_and_positive(bob, money):
    lot = buy(bob)
    with nothing_moves(), pytest.raises(ValueError, match="money_minor"):
        debts.claw_back(lot, money, "refunded", "re_1")


def test_only_what_was_paid_for_is_clawed_back(alice):
    for lot in (Lot.objects.get().id, uuid4()):
        with nothing_moves(), pytest.raises(UnknownLot):
            debts.claw_back(lot, 1, "refunded", "re_1")


def test_what_is_held_is_never_taken_and_what_comes_free_is(bob):
    lot = buy(bob)
    wallets.hold(bob, 600, job := uuid4(), HOUR)
    back = debts.claw_back(lot, 100, "dispute", "dp_1")
    assert (back.collected, back.owed) == (400, 600)
    assert wallets.balance(bob) == Balance(available=0, held=600, total=600)
    assert debts.collect() == 0
    wallets.capture(job, 100)
    (debt,) = debts.of(bob)
    assert (debt.collected, debt.owed, debt.owed_minor) == (900, 100, 10)
    assert frozen(bob)


def test_a_refund_of_a_job_pays_the_debt_it_made(bob):
    lot = buy(bob)
    job = spend(bob, 300)
    debts.claw_back(lot, 100, "dispute", "dp_1")
    wallets.refund(job, 300, "sorry")
    assert (total(bob), frozen(bob), Clawback.objects.get().settlement) == (0, False, "collected")


def test_a_later_purchase_pays_a_debt_and_gifts_do_not(bob):
    lot = buy(bob)
    spend(bob, 300)
    debt = debts.claw_back(lot, 100, "dispute", "dp_1").id
    wallets.grant(bob, 500, "given")
    assert (total(bob), debts.of(bob)[0].owed, frozen(bob)) == (500, 300, True)
    buy(bob, amount=299, price=30)
    assert (total(bob), debts.of(bob)[0].owed, frozen(bob)) == (500, 1, True)
    buy(bob, amount=201, price=20)
    assert not frozen(bob)
    assert [(lot.kind, lot.remaining) for lot in lots.position(bob).lots] == [("granted", 500), ("paid", 200)]
    settled = Transfer.objects.filter(kind="settlement").order_by("id").values_list("reference", "amount")
    assert list(settled) == [(debt, 299), (debt, 1)]
    with nothing_moves():
        assert debts.waive(debt, "too late") is False


# --- whatever frees paid Tokens pays debts ---


def released(job: UUID) -> int:
    return wallets.release(job)


def charged_in_part(job: UUID) -> int:
    return wallets.capture(job, 400).released


def expired(job: UUID) -> int:
    return wallets.expire(job)


def charged_and_refunded(job: UUID) -> int:
    wallets.capture(job, 1_000)
    wallets.refund(job, 700, "sorry")
    return 700


ENDS = [released, charged_in_part, expired, charged_and_refunded]


@pytest.mark.parametrize("end", ENDS, ids=[end.__name__ for end in ENDS])
@pytest.mark.parametrize("spent", [1_000, 600, 100])
def test_what_comes_free_pays_what_is_owed_for_another_payment(bob, end, spent):
    """One payment is spent and goes back while a job holds all of the other's Tokens."""
    first, _ = buy(bob), buy(bob)
    spend(bob, spent)
    wallets.hold(bob, 1_000, job := uuid4(), timedelta(microseconds=1))
    assert debts.claw_back(first, 100, "dispute", "dp_1").owed == spent
    assert frozen(bob)
    freed = end(job)
    assert frozen(bob) == (freed < spent)
    assert sum(debt.owed for debt in debts.of(bob)) == max(0, spent - freed)
    assert wallets.balance(bob).available == max(0, freed - spent)


def test_the_job_that_a_frozen_account_gave_up_is_followed_by_another(bob):
    first, _ = buy(bob), buy(bob)
    spend(bob, 1_000)
    wallets.hold(bob, 1_000, job := uuid4(), HOUR)
    debts.claw_back(first, 50, "refunded", "re_1")
    wallets.release(job)
    assert not frozen(bob)
    wallets.hold(bob, 500, uuid4(), HOUR)


def test_a_lot_pays_its_own_debt_first_and_the_oldest_debt_comes_next(bob):
    old, own, _ = (buy(bob) for _ in range(3))
    spend(bob, 1_500)
    wallets.hold(bob, 1_500, job := uuid4(), HOUR)
    owed = [debts.claw_back(lot, 100, "dispute", str(lot)) for lot in (old, own)]
    assert [debt.owed for debt in owed] == [1_000, 1_000]
    wallets.capture(job, 300)
    assert (frozen(bob), total(bob)) == (True, 0)
    assert [(debt.id, debt.owed) for debt in debts.of(bob)] == [(owed[1].id, 800)]
    taken = Transfer.objects.filter(target_id=MINT_ID).order_by("id").values_list("kind", "amount", "reference")
    assert list(taken) == [("clawback", 200, own), ("settlement", 1_000, owed[0].id)]


def test_a_spent_bonus_is_owed_and_gifts_do_not_pay_it(bob):
    wallets.grant(bob, 100, "bonus")
    spend(bob, 100)
    debts.claw_back_bonus(Lot.objects.get().id, 100, "refunded", "re_1")
    wallets.grant(bob, 500, "given")
    assert (total(bob), debts.of(bob)[0].owed, frozen(bob)) == (500, 100, True)
    buy(bob, amount=150)
    assert (total(bob), debts.of(bob), frozen(bob)) == (550, [], False)


def test_expired_tokens_pay_no_debt_of_another_payment(bob):
    first, other = buy(bob, expires_at=TOMORROW), buy(bob)
    spend(bob, 1_000)
    wallets.hold(bob, 1_000, job := uuid4(), HOUR)
    debts.claw_back(first, 100, "dispute", "dp_1")
    lapse(other)
    wallets.release(job)
    assert (total(bob), debts.of(bob)[0].owed, frozen(bob)) == (0, 1_000, True)
    assert list(Transfer.objects.filter(target_id=MINT_ID).values_list("kind", "amount")) == [("expiry", 1_000)]


def test_the_operator_waives_a_debt_for_a_reason(bob):
    lot = buy(bob)
    spend(bob, 300)
    debt = debts.claw_back(lot, 100, "dispute", "dp_1").id
    with nothing_moves(), pytest.raises(ValueError, match="reason"):
        debts.waive(debt, "")
    assert debts.waive(debt, "paid by bank transfer") is True
    assert (frozen(bob), debts.of(bob), total(bob)) == (False, [], 0)
    with nothing_moves():
        assert debts.waive(debt, "again") is False


def test_two_debts_freeze_until_both_are_settled(bob):
    first, second = (buy(bob) for _ in range(2))
    spend(bob, 2_000)
    owed = [debts.claw_back(lot, 100, "dispute", str(lot)).id for lot in (first, second)]
    debts.waive(owed[0], "one")
    assert frozen(bob)
    debts.waive(owed[1], "two")
    assert not frozen(bob)


def test_a_debt_that_never_was_is_unknown():
    for verb in (debts.waive, debts.void):
        with nothing_moves(), pytest.raises(UnknownDebt):
            verb(uuid4(), "why")


def test_a_frozen_account_holds_nothing_new_until_its_debt_is_settled(bob):
    lot = buy(bob)
    spend(bob, 300)
    debt = debts.claw_back(lot, 100, "dispute", "dp_1").id
    wallets.grant(bob, 50, "given")
    with nothing_moves(), pytest.raises(AccountFrozen):
        wallets.hold(bob, 1, uuid4(), HOUR)
    debts.waive(debt, "forgiven")
    wallets.hold(bob, 50, uuid4(), HOUR)


def test_a_frozen_account_keeps_what_it_has_and_its_jobs_end(bob):
    lot = buy(bob)
    wallets.hold(bob, 100, job := uuid4(), HOUR)
    spend(bob, 200)
    debts.claw_back(lot, 100, "dispute", "dp_1")
    assert wallets.capture(job, 60).released == 40
    assert frozen(bob)
    assert total(bob) == 0


def test_the_periodic_task_follows_collects_and_expires(bob):
    """Debts before expiry: what is left of a lot whose payment went back is owed, even past its time."""
    wallets.grant(bob, 50, "gone", expires_at=TOMORROW)
    lot = buy(bob, expires_at=TOMORROW)
    wallets.hold(bob, 1_050, job := uuid4(), HOUR)
    debts.claw_back(lot, 100, "dispute", "dp_1")
    lapse()
    wallets.release(job)
    assert not frozen(bob)
    assert app.conf.beat_schedule["keep_lots"]["task"] == tasks.keep_lots.name
    tasks.keep_lots()
    taken = Transfer.objects.filter(target_id=MINT_ID).order_by("id").values_list("kind", "amount")
    assert list(taken) == [("clawback", 1_000), ("expiry", 50)]
    assert (total(bob), frozen(bob)) == (0, False)


def test_what_a_void_claw_back_had_not_collected_can_be_demanded_again(bob):
    lot = buy(bob)
    spend(bob, 300)
    back = debts.claw_back(lot, 100, "dispute", "dp_1")
    assert debts.void(back.id, "won") is True
    assert debts.void(back.id, "won") is False
    assert frozen(bob) is False
    again = debts.claw_back(lot, 30, "refunded", "re_1")
    assert (again.amount, again.collected, again.owed) == (300, 0, 300)
    with nothing_moves(), pytest.raises(ClawbackAbovePrice):
        debts.claw_back(lot, 1, "refunded", "re_2")


def test_a_bonus_is_demanded_whole_once_and_what_expired_of_it_is_not(bob):
    wallets.grant(bob, 100, "bonus", expires_at=TOMORROW)
    spend(bob, 40)
    bonus = Lot.objects.get(kind="granted")
    lapse()
    lots.expire()
    first = debts.claw_back_bonus(bonus.id, 30, "refunded", "re_1")
    rest = debts.claw_back_bonus(bonus.id, 90, "refunded", "re_2")
    assert (first.owed, rest.owed, rest.owed_minor, total(bob)) == (30, 10, 0, 0)
    assert frozen(bob) is True
    with nothing_moves():
        assert debts.claw_back_bonus(bonus.id, 90, "refunded", "re_2").id == rest.id
