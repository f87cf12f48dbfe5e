"""Wallets that only spend, followed many at once: as a fold would, and whatever is no run is left to it."""

from datetime import timedelta
from random import Random
from uuid import UUID, uuid4

import pytest
from django.db import connection, transaction
from django.utils import timezone

from billing.models import Draw, Lot, LotCursor, Spending, Transfer, Wallet
from billing.tokens import lots, proof, runs, wallets
from billing.tokens.wallets import Share
from tests.billing.books import HOUR, nothing_moves
from tests.threads import together

pytestmark = pytest.mark.django_db

NOW = timezone.now()
EXPIRIES = (None, None, NOW - timedelta(days=2), NOW - timedelta(days=1), NOW + timedelta(days=1), NOW + 2 * HOUR * 24)


def wallet_of(owner: UUID) -> int:
    return Wallet.objects.get(owner=owner).id


def spend(owner: UUID, amount: int, creator: UUID | None = None, spender: UUID | None = None) -> UUID:
    wallets.hold(owner, amount, reference := uuid4(), HOUR, spender)
    shared = [Share(creator, 1), Share("platform", amount - 1)] if creator and amount > 1 else None
    wallets.capture(reference, amount, shared)
    return reference


def story(owner: UUID, creator: UUID, seed: int) -> None:
    """Lots, spent in part and refunded, followed; then captures alone, one at least."""
    dice = Random(seed)
    for number in range(dice.randint(1, 5)):
        amount, expires, key = dice.randint(20, 60), dice.choice(EXPIRIES), f"{owner} {number}"
        if dice.random() < 0.7:
            wallets.purchase(owner, amount, dice.randint(1, 99), dice.choice(["eur", "usd"]), key, expires)
        else:
            wallets.grant(owner, amount, key, expires_at=expires)
    for _ in range(dice.randint(0, 4)):
        job = spend(owner, spent := dice.randint(1, 4), creator)
        if dice.random() < 0.7:
            wallets.refund(job, dice.randint(1, spent), f"refund {job}")
    lots.allocate(wallet_of(owner))
    keys = [None, UUID(int=1), UUID(int=2)]
    while most := min(dice.choice([2, 9, 60]), wallets.balance(owner).available):
        spend(owner, dice.randint(1, most), dice.choice([creator, None]), dice.choice(keys))
        if dice.random() < 0.1:
            return


def books(owner: UUID) -> list[object]:
    """Lots, draws, cursor and spending, without what tells one wallet from another."""
    wallet = Wallet.objects.get(owner=owner)
    ids = list(wallet.lots.order_by("transfer_id").values_list("id", flat=True))
    sent = list(wallet.outgoing.order_by("id").values_list("id", flat=True))
    drawn = Draw.objects.filter(lot__wallet=wallet, transfer_id__in=sent).order_by("id")
    return [
        list(wallet.lots.order_by("transfer_id").values_list("remaining", "spent_minor")),
        [(ids.index(lot), sent.index(move), *rest) for lot, move, *rest in
         drawn.values_list("lot_id", "transfer_id", "amount", "money_minor")],
        sent.index(wallet.lot_cursor.last_transfer_id) + 1 == len(sent),
        sorted(map(str, Spending.objects.filter(wallet=wallet).values_list("spender", "quarter", "amount"))),
    ]  # fmt: skip


@pytest.mark.parametrize("seed", range(20))
def test_a_run_is_traced_to_the_same_lots_and_cents_as_by_a_fold(bob, carol, seed):
    """Two wallets live the same story."""
    wallets.create(other := uuid4())
    for owner in (bob, other):
        story(owner, carol, seed)
    assert runs.follow([wallet_of(bob)]) == {wallet_of(bob)}
    lots.allocate(wallet_of(other))
    assert books(bob) == books(other)
    assert proof.check() == []


def test_a_lot_whose_money_went_ahead_of_its_tokens_waits_for_them(bob):
    """What cost nothing was refunded, so 9 of 10 cents are spent on 9 of 30 milli-Tokens."""
    wallets.purchase(bob, 30, 10, "eur", "pi_1")
    jobs = [spend(bob, 1) for _ in range(29)]
    for job in [job for job in jobs if lots.cost(job).money == {"eur": 0}]:
        wallets.refund(job, 1, f"refund {job}")
    lots.position(bob)
    again = [spend(bob, 1) for _ in range(21)]
    assert runs.follow([wallet_of(bob)]) == {wallet_of(bob)}
    assert [lots.cost(job).money["eur"] for job in again] == [0] * 20 + [1]
    assert proof.check() == []


def test_many_wallets_follow_together_in_batches(alice, bob):
    wallets.purchase(bob, 1_000, 100, "eur", "pi_1")
    assert lots.catch_up() == 2
    for _ in range(11):
        spend(alice, 10)
        spend(bob, 30)
    ids = [wallet_of(alice), wallet_of(bob)]
    assert runs.follow(ids, batch=7) == set(ids)
    assert [lot.remaining for lot in lots.position(bob).lots] == [670]
    assert Lot.objects.get(wallet__owner=bob).spent_minor == 33
    assert Draw.objects.count() == 22
    assert proof.check() == []
    with nothing_moves():
        assert runs.follow(ids) == set()


def test_who_never_followed_is_no_run(alice):
    spend(alice, 10)
    with nothing_moves():
        assert runs.follow([wallet_of(alice)]) == set()
    assert lots.catch_up() == 1
    assert proof.check() == []


@pytest.mark.parametrize("what", ["refund", "grant"])
def test_a_wallet_where_more_than_captures_happened_is_left_to_the_fold(bob, what):
    wallets.purchase(bob, 1_000, 100, "eur", "pi_1")
    lots.position(bob)
    job = spend(bob, 10)
    if what == "refund":
        wallets.refund(job, 5, "sorry")
    else:
        wallets.grant(bob, 5, "gift")
    spend(bob, 10)
    with nothing_moves():
        assert runs.follow([wallet_of(bob)]) == set()
    assert lots.catch_up() == 1
    assert proof.check() == []


@pytest.mark.parametrize(("moment", "is_run"), [(0, True), (1, False), (2, False), (3, True)])
def test_a_lot_that_expires_between_two_captures_makes_no_run(bob, moment, is_run):
    """Gifts go first, but for what was held when it expired: this paid lot gets ahead of them in the middle."""
    wallets.grant(bob, 1_000, "gift")
    wallets.purchase(bob, 25, 100, "eur", "pi_1", expires_at=timezone.now() + HOUR)
    lots.position(bob)
    for _ in range(3):
        spend(bob, 10)
    times = list(Transfer.objects.order_by("id").values_list("created_at", flat=True))[-3:]
    expires = [*times, times[2] + timedelta(microseconds=1)][moment]
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL session_replication_role = replica")
        cursor.execute("UPDATE billing_lot SET expires_at = %s WHERE kind = 'paid'", [expires])
        cursor.execute("SET LOCAL session_replication_role = origin")
    assert runs.follow([wallet_of(bob)]) == ({wallet_of(bob)} if is_run else set())
    lots.allocate(wallet_of(bob))
    assert Lot.objects.get(kind="paid").remaining == max(0, 25 - 10 * (3 - moment))
    assert proof.check() == []


def test_a_group_that_fails_is_folded_wallet_by_wallet(alice, bob, monkeypatch, caplog):
    wallets.grant(bob, 1_000, "welcome")
    assert lots.catch_up() == 2
    spend(alice, 10)
    spend(bob, 10)
    monkeypatch.setattr(runs, "_FOLLOW", "SELECT 1 / 0")
    assert lots.catch_up() == 2
    assert "runs of wallets" in caplog.text
    assert Draw.objects.count() == 2
    assert proof.check() == []


@pytest.mark.django_db(transaction=True)
def test_a_wallet_that_somebody_is_at_keeps_no_other_waiting(alice, bob):
    wallets.grant(bob, 1_000, "welcome")
    assert lots.catch_up() == 2
    spend(alice, 10)
    spend(bob, 10)
    ids = [wallet_of(alice), wallet_of(bob)]
    with transaction.atomic():
        LotCursor.objects.select_for_update().get(wallet_id=ids[0])
        assert together(1, lambda _: runs.follow(ids)) == [{ids[1]}]
    assert runs.follow(ids) == {ids[0]}
    assert proof.check() == []


@pytest.mark.django_db(transaction=True)
def test_runs_are_followed_once_while_their_tokens_are_spent(alice, bob):
    """Two who spend, two who follow, in both orders, two who look."""
    wallets.purchase(bob, 1_000_000, 9_999, "eur", "pi_1")
    assert lots.catch_up() == 2
    ids = [wallet_of(alice), wallet_of(bob)]

    def work(number):
        for turn in range(40):
            if number < 2:
                spend((alice, bob)[number], 7 + turn)
            elif number < 4:
                runs.follow(ids[:: 1 if number == 2 else -1])
            else:
                found = lots.allocate(ids[number % 2])
                assert sum(lot.remaining for lot in found.lots) == found.balance.total

    assert together(6, work) == [None] * 6
    lots.catch_up()
    assert Draw.objects.count() == 80
    assert proof.check() == []
