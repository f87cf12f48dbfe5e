"""Lots as their owner sees them: what is spent first, what a picture cost, what expires, what a refund brings back."""

from datetime import timedelta
from uuid import UUID, uuid4

import pytest
from django.db import connection
from django.utils import timezone

from billing import amounts
from billing.errors import IdempotencyMismatch, InsufficientTokens, NoWallet, UnknownHold
from billing.models import Draw, Lot, LotCursor, Transfer
from billing.tokens import ledger, lots, proof, wallets
from billing.tokens.lots import Part
from tests.billing.books import HOUR, lapse, nothing_moves

pytestmark = pytest.mark.django_db

NOW = timezone.now()
TOMORROW, NEXT_WEEK = NOW + timedelta(days=1), NOW + timedelta(days=7)


def spend(owner: UUID, amount: int, held: int | None = None) -> UUID:
    """The reference of a job that is done."""
    wallets.hold(owner, held or amount, reference := uuid4(), HOUR)
    wallets.capture(reference, amount)
    return reference


def left(owner: UUID) -> list[int]:
    """Tokens left in each lot, in the order in which they are spent; the books are right."""
    position = lots.position(owner)
    assert sum(lot.remaining for lot in position.lots) == position.balance.total == wallets.balance(owner).total
    assert proof.check() == []
    return [lot.remaining for lot in position.lots]


def lot_of(key: str) -> Lot:
    return Lot.objects.get(transfer__idempotency_key=key)


def test_a_grant_is_a_lot_of_its_own(bob):
    wallets.grant(bob, 7_000, "welcome", expires_at=TOMORROW)
    (lot,) = lots.position(bob).lots
    assert (lot.kind, lot.amount, lot.remaining, lot.expires_at) == ("granted", 7_000, 7_000, TOMORROW)
    assert (lot.price_minor, lot.currency) == (None, "")


def test_a_purchase_is_a_paid_lot_and_a_repeat_is_the_same_one(bob):
    payment = uuid4()
    bought = wallets.purchase(bob, 100_000, 990, "eur", "pi_1", reference=payment)
    with nothing_moves():
        assert wallets.purchase(bob, 100_000, 990, "eur", "pi_1", reference=payment) == bought
    (lot,) = lots.position(bob).lots
    assert (lot.id, lot.kind, lot.price_minor, lot.currency, lot.expires_at) == (bought, "paid", 990, "eur", None)
    assert ledger.statement(bob)[0].kind == "purchase"
    for terms in ((100_000, 991, "eur"), (100_000, 990, "usd"), (100_001, 990, "eur")):
        with nothing_moves(), pytest.raises(IdempotencyMismatch):
            wallets.purchase(bob, *terms, "pi_1", reference=payment)


@pytest.mark.parametrize(("price", "currency"), [(0, "eur"), (-1, "eur"), (9.9, "eur"), (990, "EUR"), (990, "euro")])
def test_a_price_is_whole_and_positive_and_its_currency_three_letters(bob, price, currency):
    with nothing_moves(), pytest.raises(ValueError, match=r"price_minor|currency"):
        wallets.purchase(bob, 1_000, price, currency, "pi_1")


def test_nobody_buys_for_an_owner_without_a_wallet(carol):
    with nothing_moves(), pytest.raises(NoWallet):
        wallets.purchase(carol, 1_000, 990, "eur", "pi_1")
    with pytest.raises(NoWallet):
        lots.position(carol)


def test_granted_goes_first_then_the_soonest_to_expire_then_the_oldest(bob):
    wallets.purchase(bob, 1, 1, "eur", "old")
    wallets.purchase(bob, 2, 1, "eur", "new")
    wallets.purchase(bob, 3, 1, "eur", "next week", expires_at=NEXT_WEEK)
    wallets.purchase(bob, 4, 1, "eur", "tomorrow", expires_at=TOMORROW)
    wallets.grant(bob, 5, "for ever")
    wallets.grant(bob, 6, "for a while", expires_at=NEXT_WEEK)
    assert left(bob) == [6, 5, 4, 3, 1, 2]
    spend(bob, 12)
    assert left(bob) == [3, 3, 1, 2]
    spend(bob, 7)
    assert left(bob) == [2]


def test_tokens_that_came_later_never_paid_for_what_was_spent_before(bob):
    wallets.purchase(bob, 1_000, 100, "eur", "paid")
    job = spend(bob, 400)
    wallets.grant(bob, 1_000, "given later")
    assert left(bob) == [1_000, 600]
    assert lots.cost(job).money == {"eur": 40}


def test_every_capture_is_traced_to_the_lots_that_paid_it(bob):
    wallets.grant(bob, 100, "given")
    euros = wallets.purchase(bob, 200, 1_000, "eur", "euros", expires_at=TOMORROW)
    dollars = wallets.purchase(bob, 300, 900, "usd", "dollars")
    cost = lots.cost(spend(bob, 400))
    assert cost.parts == [
        Part(lot_of("grant:given").id, "granted", "", 100, 0),
        Part(euros, "paid", "eur", 200, 1_000),
        Part(dollars, "paid", "usd", 100, 300),
    ]
    assert cost.money == {"eur": 1_000, "usd": 300}


def test_what_gifts_paid_for_cost_nothing_and_what_never_was_is_unknown(alice, held):
    assert lots.cost(spend(alice, 5)).money == {}
    assert lots.cost(held) == lots.Cost({}, [])
    with pytest.raises(UnknownHold):
        lots.cost(uuid4())


@pytest.mark.parametrize(("amount", "price", "step"), [(1_000, 100, 7), (999, 1, 10), (10, 9_999, 3), (7, 7, 1)])
def test_the_cents_of_a_lots_pictures_sum_to_its_price(bob, amount, price, step):
    wallets.purchase(bob, amount, price, "eur", "pi_1")
    jobs = [spend(bob, min(step, amount - spent)) for spent in range(0, amount, step)]
    costs = [lots.cost(job).money["eur"] for job in jobs]
    assert sum(costs) == price
    fair = price * step / amount
    assert all(abs(cost - fair) < 1 for cost in costs[:-1])


def test_a_shared_charge_costs_what_it_costs(bob, carol):
    wallets.purchase(bob, 1_000, 100, "eur", "pi_1")
    wallets.hold(bob, 100, job := uuid4(), HOUR)
    wallets.capture(job, 100, [wallets.Share(carol, 33), wallets.Share("platform", 67)])
    assert lots.cost(job).money == {"eur": 10}
    wallets.refund(job, 70, "sorry")
    assert left(bob) == [970]
    assert lots.cost(job).money == {"eur": 4}  # of 3 cents 2 came back with 23 of 33 milli-Tokens, and of 7 cents 4
    wallets.refund(job, 30, "the rest")
    assert lots.cost(job).money == {}


def test_a_refund_goes_back_into_the_lots_that_paid_the_last_one_first(bob):
    wallets.grant(bob, 100, "given")
    wallets.purchase(bob, 100, 1_000, "eur", "first", expires_at=TOMORROW)
    wallets.purchase(bob, 100, 3_000, "eur", "second")
    job = spend(bob, 250)
    assert left(bob) == [50]
    wallets.refund(job, 80, "one")
    assert left(bob) == [30, 100]
    assert lots.cost(job).money == {"eur": 700}
    wallets.refund(job, 170, "two")
    assert left(bob) == [100, 100, 100]
    assert lots.cost(job) == lots.Cost({}, [])


def test_a_job_that_was_refunded_whole_cost_nothing_whatever_was_rounded(bob):
    wallets.purchase(bob, 30, 10, "eur", "pi_1")
    jobs = [spend(bob, 1) for _ in range(30)]
    assert sum(lots.cost(job).money["eur"] for job in jobs) == 10
    for number, job in enumerate(jobs[::2]):
        wallets.refund(job, 1, f"case {number}")
    assert all(lots.cost(job).parts == [] for job in jobs[::2])
    again = [spend(bob, 1) for _ in range(15)]
    assert sum(lots.cost(job).money["eur"] for job in jobs[1::2] + again) == 10
    assert proof.check() == []


def test_lots_past_their_time_expire_by_a_transfer(bob):
    wallets.grant(bob, 100, "gone", expires_at=TOMORROW)
    gone = lot_of("grant:gone").id
    wallets.grant(bob, 10, "good", expires_at=TOMORROW)
    assert left(bob) == [100, 10]
    lapse(gone)
    assert lots.expire() == 100
    assert left(bob) == [10]
    (entry, *_) = ledger.statement(bob)
    assert (entry.kind, entry.amount, entry.reference) == ("expiry", -100, gone)
    with nothing_moves():
        assert lots.expire() == 0


def test_expired_tokens_are_neither_shown_nor_held_although_nobody_swept(bob):
    wallets.grant(bob, 100, "gone", expires_at=TOMORROW)
    wallets.grant(bob, 30, "good")
    lapse()
    with pytest.raises(InsufficientTokens) as refused:
        wallets.hold(bob, 31, uuid4(), HOUR)
    assert refused.value.available == 30
    assert (left(bob), lots.position(bob).balance.available) == ([30], 30)
    assert ledger.statement(bob)[0].kind == "expiry"


def test_the_first_hold_after_an_expiry_is_paid_with_other_tokens(bob):
    wallets.grant(bob, 100, "gone", expires_at=TOMORROW)
    wallets.grant(bob, 30, "good")
    lapse()
    wallets.hold(bob, 30, job := uuid4(), HOUR)
    wallets.capture(job, 30)
    assert lots.cost(job).parts == [Part(lot_of("grant:good").id, "granted", "", 30, 0)]
    assert left(bob) == []


def test_what_was_spent_before_its_expiry_keeps_nobody_from_holding(bob):
    """The lots are behind: their cursor has not seen that nothing is left of the one that expired."""
    wallets.grant(bob, 100, "gone", expires_at=TOMORROW)
    lots.position(bob)
    spend(bob, 100)
    wallets.grant(bob, 30, "good")
    lapse()
    wallets.hold(bob, 30, uuid4(), HOUR)
    assert wallets.balance(bob) == wallets.Balance(0, 30, 30)


def test_a_hold_looks_at_no_other_wallets_lots_however_many_have_expired(alice):
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO billing_wallet (owner, kind) SELECT gen_random_uuid(), 'customer' FROM generate_series(1, 999)"
        )
        cursor.execute(
            "INSERT INTO billing_lot (wallet_id, transfer_id, kind, amount, remaining, expires_at)"
            " SELECT id, id + 1000000, 'granted', 5, 5, now() FROM billing_wallet WHERE owner <> %s",
            [alice],
        )
        cursor.execute("ANALYZE billing_wallet, billing_lot")
        values = {"owner": alice, "amount": 1, "reference": uuid4(), "spender": None, "expires_in": HOUR}
        cursor.execute(f"EXPLAIN {wallets._HOLD}", values)
        plan = "\n".join(line for (line,) in cursor.fetchall())
    assert "lot_due" not in plan
    assert "Seq Scan on billing_lot" not in plan


def test_what_was_held_at_its_expiry_is_gone_when_it_comes_free(bob):
    wallets.grant(bob, 100, "gone", expires_at=TOMORROW)
    wallets.hold(bob, 100, job := uuid4(), HOUR)
    lapse()
    assert left(bob) == [100]
    wallets.release(job)
    with pytest.raises(InsufficientTokens):
        wallets.hold(bob, 1, uuid4(), HOUR)
    assert left(bob) == []


def test_what_is_held_at_its_expiry_goes_when_the_hold_is_resolved(bob):
    wallets.grant(bob, 100, "gone", expires_at=TOMORROW)
    wallets.hold(bob, 70, job := uuid4(), HOUR)
    lapse()
    assert lots.expire() == 30
    assert lots.expire() == 0
    wallets.purchase(bob, 1_000, 100, "eur", "pi_1")
    wallets.grant(bob, 50, "good")
    wallets.capture(job, 20)
    assert lots.cost(job).parts == [Part(lot_of("grant:gone").id, "granted", "", 20, 0)]
    assert lots.expire() == 50
    assert left(bob) == [50, 1_000]


def test_tokens_that_expired_while_they_were_held_are_spent_before_gifts(bob):
    bought = wallets.purchase(bob, 100, 100, "eur", "pi_1", expires_at=TOMORROW)
    wallets.hold(bob, 100, job := uuid4(), HOUR)
    lapse()
    assert lots.expire() == 0
    wallets.grant(bob, 50, "good")
    wallets.capture(job, 60)
    assert lots.cost(job).parts == [Part(bought, "paid", "eur", 60, 60)]
    assert lots.expire() == 40
    assert left(bob) == [50]


def test_what_expires_first_is_held_first_although_other_tokens_could_pay(bob):
    wallets.grant(bob, 100, "gone", expires_at=TOMORROW)
    wallets.purchase(bob, 100, 100, "eur", "pi_1")
    wallets.hold(bob, 60, job := uuid4(), HOUR)
    lapse()
    assert lots.expire() == 40
    assert left(bob) == [60, 100]
    wallets.capture(job, 50)
    assert lots.cost(job).parts == [Part(lot_of("grant:gone").id, "granted", "", 50, 0)]
    assert left(bob) == [100]


def test_tokens_that_come_later_do_not_push_out_what_is_held(bob):
    wallets.grant(bob, 100, "gone", expires_at=TOMORROW)
    wallets.hold(bob, 60, job := uuid4(), HOUR)
    lapse()
    wallets.grant(bob, 30, "good")
    assert lots.expire() == 40
    with pytest.raises(InsufficientTokens) as refused:
        wallets.hold(bob, 31, uuid4(), HOUR)
    assert refused.value.available == 30
    wallets.hold(bob, 30, uuid4(), HOUR)
    assert left(bob) == [60, 30]
    wallets.release(job)
    assert left(bob) == [30]


def test_a_hold_keeps_what_expires_soonest_and_nothing_that_had_expired_before_it(bob):
    late = wallets.purchase(bob, 50, 50, "eur", "late", expires_at=NEXT_WEEK)
    soon = wallets.purchase(bob, 50, 50, "eur", "soon", expires_at=TOMORROW)
    wallets.hold(bob, 70, uuid4(), HOUR)
    lapse(soon)
    wallets.grant(bob, 100, "good")
    wallets.hold(bob, 40, uuid4(), HOUR)
    lapse(late)
    assert left(bob) == [50, 50, 100], "the second hold came before the later expiry"
    wallets.purchase(bob, 9, 9, "eur", "gone", expires_at=NOW - HOUR)
    assert left(bob) == [50, 50, 100]


def test_a_refund_into_an_expired_lot_can_be_spent_for_another_month(bob):
    bought = wallets.purchase(bob, 100, 100, "eur", "pi_1", expires_at=TOMORROW)
    job = spend(bob, 60)
    lapse()
    assert lots.expire() == 40
    wallets.refund(job, 50, "sorry")
    assert left(bob) == [50]
    assert lots.expire() == 0
    refunded_at = Transfer.objects.get(kind="refund").created_at
    assert Lot.objects.get(id=bought).expires_at == refunded_at + timedelta(days=30)
    assert lots.cost(job).money == {"eur": 10}


def test_the_money_of_what_expired_is_accounted_for_too(bob):
    bought = wallets.purchase(bob, 100, 999, "eur", "pi_1", expires_at=TOMORROW)
    job = spend(bob, 33)
    lapse()
    lots.expire()
    lots.position(bob)
    lot = Lot.objects.get(id=bought)
    assert (lot.remaining, lot.spent_minor) == (0, 999)
    assert list(lot.draws.order_by("id").values_list("amount", "money_minor")) == [(33, 329), (67, 670)]
    assert lots.cost(job).money == {"eur": 329}


def test_lots_that_follow_in_chunks_end_where_they_would_in_one(bob, monkeypatch):
    monkeypatch.setattr(lots, "CHUNK", 3)
    wallets.purchase(bob, 1_000, 100, "eur", "pi_1")
    jobs = [spend(bob, 10) for _ in range(7)]
    for job in jobs[:4]:
        wallets.refund(job, 5, f"refund {job}")
    assert left(bob) == [950]
    assert Draw.objects.count() == 11


def test_allocating_again_writes_nothing(alice, held):
    wallets.capture(held, 5)
    lots.position(alice)
    with nothing_moves():
        before = list(Draw.objects.values()) + list(Lot.objects.values()) + list(LotCursor.objects.values())
        lots.position(alice)
        assert before == list(Draw.objects.values()) + list(Lot.objects.values()) + list(LotCursor.objects.values())


def test_the_sweeper_keeps_the_wallets_that_moved_near(alice, bob, held):
    wallets.capture(held, 5)
    assert lots.catch_up() == 1
    assert LotCursor.objects.get().last_transfer_id == Transfer.objects.latest("id").id
    assert lots.catch_up() == 0


def test_a_wallet_that_fails_stops_no_other(alice, bob, monkeypatch, caplog):
    def work(wallet_id):
        if wallet_id == 1:
            raise RuntimeError("broken")
        return 2

    assert lots.each([1, 2], work) == 2
    assert "lots of wallet 1" in caplog.text


def test_wallets_from_before_lots_are_followed_from_their_first_transfer(alice, held):
    """The migration leaves a lot for each grant, whole, and no cursor."""
    from importlib import import_module

    wallets.capture(held, 400_000)
    wallets.refund(held, 100_000, "sorry")
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL session_replication_role = replica; DELETE FROM billing_lot")
        cursor.execute(import_module("billing.migrations.0005_lot_guards").LOTS_OF_OLD_GRANTS)
        cursor.execute("SET LOCAL session_replication_role = origin")
    assert left(alice) == [700_000]


@pytest.mark.parametrize(
    ("amount", "currency", "shown"),
    [
        (1990, "eur", "19.90"), (5, "usd", "0.05"), (500, "jpy", "500"), (1, "kwd", "0.001"), (-700, "krw", "-700"),
        (-5, "eur", "-0.05"), (70_000, "isk", "700.00"),
    ],
)  # fmt: skip
def test_money_is_shown_as_its_currency_is_counted(amount, currency, shown):
    assert amounts.format_money(amount, currency) == shown
    if amount > 0:
        assert amounts.parse_money(shown, currency) == amount
