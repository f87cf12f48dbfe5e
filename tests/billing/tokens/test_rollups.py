"""Balances that nobody stores are exact at every moment, whoever commits late; a mark passes nothing over."""

from threading import Event, Thread
from uuid import uuid4

import pytest
from django.db import IntegrityError, connection, transaction

from billing.models import MINT_ID, PLATFORM_ID, Rollup, Wallet
from billing.tokens import proof, rollups, wallets
from billing.tokens.wallets import Share
from tests.billing.books import HOUR
from tests.threads import together


def spend(owner, amount, shares=None):
    reference = uuid4()
    wallets.hold(owner, amount, reference, HOUR)
    wallets.capture(reference, amount, shares)


def marks():
    return dict(Rollup.objects.values_list("wallet_id", "last_transfer_id"))


@pytest.mark.django_db
def test_a_balance_is_the_same_before_and_after_the_roll_up(alice, carol):
    creator = Wallet.objects.get(owner=carol).id
    for amount in (10, 20, 30, 40):
        spend(alice, amount, [Share(carol, amount // 10), Share("platform", amount - amount // 10)])
    assert (rollups.balance(PLATFORM_ID), rollups.balance(creator)) == (90, 10)
    assert rollups.balance(MINT_ID) == -1_000_000
    assert rollups.roll_up(chunk=2) == 5
    assert (rollups.balance(PLATFORM_ID), rollups.balance(creator)) == (90, 10)
    assert rollups.roll_up(chunk=2) == 0
    spend(alice, 50)
    assert rollups.balance(PLATFORM_ID) == 140
    assert rollups.roll_up(chunk=2) == 1
    assert Rollup.objects.get(wallet_id=PLATFORM_ID).balance == 140
    assert proof.check() == []


@pytest.mark.django_db
def test_a_customers_wallet_is_not_summed(alice):
    assert rollups.balance(Wallet.objects.get(owner=alice).id) is None


@pytest.mark.django_db(transaction=True)
def test_a_transfer_with_a_lower_number_that_commits_later_is_waited_for(alice, bob):
    drawn, go = Event(), Event()

    def late():
        try:
            with transaction.atomic():
                wallets.grant(bob, 7, "late")
                drawn.set()
                go.wait(30)
        finally:
            connection.close()

    other = Thread(target=late)
    other.start()
    assert drawn.wait(30)
    wallets.grant(alice, 5, "later, and committed before")
    assert rollups.roll_up(patience_seconds=0.2) is None
    assert marks() == {}
    assert rollups.balance(MINT_ID) == -1_000_005
    go.set()
    other.join()
    assert rollups.balance(MINT_ID) == -1_000_012
    assert rollups.roll_up() == 1
    assert Rollup.objects.get(wallet_id=MINT_ID).balance == -1_000_012
    assert proof.check() == []


@pytest.mark.django_db(transaction=True)
def test_rolling_up_while_everybody_spends_loses_nothing(alice):
    seen = []

    def work(number):
        for _ in range(15):
            if number < 4:
                spend(alice, 1)
            else:
                rollups.roll_up(patience_seconds=5, chunk=2)
                seen.append(rollups.balance(PLATFORM_ID))

    assert together(6, work) == [None] * 6
    assert rollups.balance(PLATFORM_ID) == 60
    rollups.roll_up(chunk=2)
    assert rollups.balance(PLATFORM_ID) == 60 >= max(seen)
    assert proof.check() == []


@pytest.mark.django_db
@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE billing_rollup SET balance = balance + 1",
        "UPDATE billing_rollup SET last_transfer_id = last_transfer_id - 1",
        "DELETE FROM billing_rollup",
    ],
)
def test_a_roll_up_cannot_be_rewritten(alice, sql):
    rollups.roll_up()
    with pytest.raises(IntegrityError), transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(sql)


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("sql", "said"),
    [
        ("UPDATE billing_rollup SET balance = balance - 1 WHERE wallet_id = 1", "-1000001 rolled up"),
        ("UPDATE billing_rollup SET last_transfer_id = last_transfer_id - 2 WHERE wallet_id = 1", "transfers say 0"),
        ("UPDATE billing_rollup SET last_transfer_id = last_transfer_id - 1 WHERE wallet_id = 2", "wallet 2: 100"),
        ("DELETE FROM billing_rollup WHERE wallet_id = 2", "was never rolled up"),
        ("UPDATE billing_rollup SET wallet_id = (SELECT max(id) FROM billing_wallet) WHERE wallet_id = 2", "customer"),
    ],
)
def test_the_proof_sees_a_roll_up_that_is_wrong(alice, sql, said):
    spend(alice, 100)
    rollups.roll_up()
    assert proof.check() == []
    with connection.cursor() as cursor:
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE; SET LOCAL session_replication_role = replica")
        cursor.execute(sql)
    assert said in "\n".join(proof.check())
