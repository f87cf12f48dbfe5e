"""Many threads and one wallet: never overdrawn, nothing lost, nothing twice, and nobody waits for the platform."""

from collections import Counter
from contextlib import suppress
from random import Random
from uuid import uuid4

import pytest
from django.db import connection, transaction
from django.utils import timezone

from billing.errors import (
    HoldError,
    HoldExists,
    HoldResolved,
    IdempotencyMismatch,
    InsufficientTokens,
    RefundAboveCapture,
)
from billing.models import Hold, Transfer
from billing.tokens import debts, ledger, lots, proof, wallets
from billing.tokens.wallets import Balance, Share
from tests.billing.books import HOUR
from tests.threads import together

pytestmark = pytest.mark.django_db(transaction=True)

THREADS = 16


def outcomes(results) -> Counter:
    """How often each result came, errors by their class."""
    return Counter(type(result) if isinstance(result, Exception) else result for result in results)


def test_sixteen_threads_never_overdraw_one_wallet(alice):
    """Each wants 100 Tokens ten times; there are 1,000."""

    def buy(number):
        bought = 0
        for _ in range(10):
            try:
                wallets.hold(alice, 100_000, reference := uuid4(), HOUR)
            except InsufficientTokens:
                continue
            wallets.capture(reference, 100_000)
            bought += 1
        return bought

    assert sum(together(THREADS, buy)) == 10
    assert wallets.balance(alice) == Balance(available=0, held=0, total=0)
    assert proof.check() == []


def test_sixteen_threads_lose_nothing(alice, carol):
    """Every thread does every verb; afterwards each milli-Token is where the threads say that they put it."""

    def work(number):
        dice, spent = Random(number), 0
        for turn in range(12):
            held = dice.randint(2, 5_000)
            wallets.hold(alice, held, reference := uuid4(), HOUR)
            if dice.random() < 0.3:
                assert wallets.release(reference) == held
                continue
            charge = dice.randint(2, held)
            wallets.capture(reference, charge, [Share(carol, 1), Share("platform", charge - 1)])
            spent += charge
            if dice.random() < 0.5:
                wallets.refund(reference, charge, f"refund {reference}")
                spent -= charge
            if dice.random() < 0.2:
                wallets.grant(alice, 77, f"grant {number} {turn}")
                spent -= 77
        return spent

    spent = sum(together(THREADS, work))
    assert wallets.balance(alice) == Balance(1_000_000 - spent, 0, 1_000_000 - spent)
    assert sum(entry.amount for entry in ledger.statement(alice, limit=10_000)) == 1_000_000 - spent
    assert Hold.objects.filter(status="held").count() == 0
    assert proof.check() == []


def test_one_hold_is_resolved_by_one_thread(alice, held):
    verbs = [lambda: wallets.capture(held, 250_000).charged, lambda: wallets.release(held)]
    found = outcomes(together(THREADS, lambda number: verbs[number % 2]()))
    assert found.pop(HoldResolved) == THREADS - 1
    assert found in ({250_000: 1}, {600_000: 1})
    assert wallets.balance(alice).total == 1_000_000 - Hold.objects.get(reference=held).captured
    assert proof.check() == []


def test_one_reference_is_held_by_one_thread(alice):
    reference = uuid4()
    found = outcomes(together(THREADS, lambda _: wallets.hold(alice, 10_000, reference, HOUR)))
    assert found == {None: 1, HoldExists: THREADS - 1}
    assert wallets.balance(alice).held == 10_000
    assert proof.check() == []


def test_one_grant_sent_by_every_thread_credits_once(bob):
    found = outcomes(together(THREADS, lambda _: wallets.grant(bob, 7_500, "event 1")))
    assert found == {True: 1, False: THREADS - 1}
    assert wallets.balance(bob).total == 7_500
    assert proof.check() == []


def test_one_key_for_two_wallets_credits_one(alice, bob):
    found = outcomes(together(THREADS, lambda number: wallets.grant((alice, bob)[number % 2], 5, "event 1")))
    assert found == {True: 1, False: THREADS // 2 - 1, IdempotencyMismatch: THREADS // 2}
    assert Transfer.objects.filter(idempotency_key="grant:event 1").count() == 1
    assert proof.check() == []


def test_refunds_at_the_same_moment_never_exceed_the_charge(alice, held):
    wallets.capture(held, 500_000)
    found = outcomes(together(THREADS, lambda number: wallets.refund(held, 100_000, f"case {number}")))
    assert found == {True: 5, RefundAboveCapture: THREADS - 5}
    assert wallets.balance(alice).total == 1_000_000
    assert proof.check() == []


def test_one_refund_sent_by_every_thread_pays_once(alice, held):
    wallets.capture(held, 500_000)
    found = outcomes(together(THREADS, lambda _: wallets.refund(held, 500_000, "case 1")))
    assert found == {True: 1, False: THREADS - 1}
    assert wallets.balance(alice).total == 1_000_000


def test_the_proof_holds_while_the_books_are_being_written(alice):
    def work(number):
        if number == 0:
            return [proof.check() for _ in range(10)]
        for _ in range(10):
            wallets.hold(alice, 1_000, reference := uuid4(), HOUR)
            wallets.capture(reference, 500)
            wallets.refund(reference, 500, f"refund {reference}")
        return []

    assert together(8, work) == [[[]] * 10] + [[]] * 7


def test_no_customer_waits_for_another_at_the_platforms_wallet(alice, bob, held):
    """The hot recipient: an unfinished capture and refund lock the customer's own rows and nobody else's."""
    wallets.grant(bob, 10_000, "welcome")
    wallets.hold(bob, 10_000, reference := uuid4(), HOUR)

    def impatient(_):
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("SET LOCAL lock_timeout = '2s'")
            charged = wallets.capture(reference, 4_000).charged
            wallets.refund(reference, 4_000, "bob's")
            return charged

    with transaction.atomic():
        wallets.capture(held, 600_000)
        wallets.refund(held, 1_000, "alice's")
        assert together(1, impatient) == [4_000]
    assert wallets.balance(bob).total == 10_000
    assert proof.check() == []


def test_threads_that_collide_are_refused_and_never_broken(alice):
    """All verbs on few references at once: every outcome is success or a refusal from the tree, no deadlock."""
    references = [uuid4() for _ in range(3)]

    def begin(_):
        for reference in references:
            with suppress(HoldExists):
                wallets.hold(alice, 10, reference, HOUR)

    def work(number):
        dice, found = Random(number), Counter()
        verbs = (
            lambda _: wallets.hold(alice, 10, uuid4(), HOUR),
            lambda reference: wallets.capture(reference, dice.randint(1, 10)),
            wallets.release,
            lambda reference: wallets.refund(reference, 1, f"{number} {dice.random()}"),
        )
        for _ in range(20):
            try:
                dice.choice(verbs)(dice.choice(references))
            except HoldError:
                found["refused"] += 1
            else:
                found["done"] += 1
        return found

    assert together(THREADS, begin) == [None] * THREADS
    results = together(THREADS, work)
    total = sum(results, Counter())
    assert total["done"] + total["refused"] == THREADS * 20
    assert total["done"] >= len(references)
    assert proof.check() == []


def test_lots_follow_while_their_tokens_are_spent_refunded_and_expire(alice, carol):
    """Captures, refunds, expiry, claw-backs and allocation of one wallet at once: nothing is lost, no deadlock."""
    for number in range(4):
        wallets.grant(alice, 2_000, f"gone {number}", expires_at=timezone.now())
    bought = [wallets.purchase(alice, 7_000, 333, "eur", f"payment {number}") for number in range(THREADS)]

    def work(number):
        dice = Random(number)
        for turn in range(8):
            wallets.hold(alice, 500, reference := uuid4(), HOUR)
            wallets.capture(reference, 450, [Share(carol, 1), Share("platform", 449)])
            if dice.random() < 0.5:
                wallets.refund(reference, dice.randint(1, 450), f"refund {reference}")
            if dice.random() < 0.4:
                dice.choice([lots.expire, debts.collect, lots.catch_up])()
            if dice.random() < 0.4:
                position = lots.position(alice)
                assert sum(lot.remaining for lot in position.lots) == position.balance.total
            if turn == 4 and number % 4 == 0:
                debts.claw_back(bought[number], 333, "dispute", f"dispute {number}")
        return [reference]

    results = together(THREADS, work)
    assert [result for result in results if isinstance(result, Exception)] == []
    assert proof.check() == []
    position = lots.position(alice)
    assert sum(lot.remaining for lot in position.lots) == wallets.balance(alice).total
    assert proof.check() == []


def test_a_lot_that_many_sweepers_expire_expires_once(bob):
    wallets.grant(bob, 5_000, "gone", expires_at=timezone.now())
    assert sum(together(THREADS, lambda _: lots.expire())) == 5_000
    assert list(Transfer.objects.filter(kind="expiry").values_list("amount", flat=True)) == [5_000]
    assert proof.check() == []


def test_one_payment_that_goes_back_many_times_at_once_goes_back_once(bob):
    lot = wallets.purchase(bob, 5_000, 100, "eur", "payment 1")
    found = together(THREADS, lambda _: debts.claw_back(lot, 100, "dispute", "dp_1").collected)
    assert found == [5_000] * THREADS
    assert Transfer.objects.filter(kind="clawback").count() == 1
    assert proof.check() == []


def test_nobody_who_buys_waits_for_lots_that_follow(alice, held):
    """An unfinished allocation locks its cursor alone."""
    wallet_id = Transfer.objects.latest("id").target_id

    def impatient(_):
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("SET LOCAL lock_timeout = '2s'")
            charged = wallets.capture(held, 600_000).charged
            wallets.refund(held, 600_000, "all of it")
            wallets.grant(alice, 5, "more")
            return charged

    with transaction.atomic():
        lots.allocate(wallet_id)
        assert together(1, impatient) == [600_000]
    assert lots.allocate(wallet_id).balance.total == 1_000_005
    assert proof.check() == []
