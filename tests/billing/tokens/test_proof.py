"""The proof: silent about healthy books, and loud about every kind of damage, made here past the guards."""

from uuid import UUID

import pytest
from django.db import connection
from django.utils import timezone

from billing.tokens import debts, lots, proof, wallets
from billing.tokens.wallets import Share
from tests.billing.books import CONSTRAINTS, HOUR, damage


@pytest.fixture
def books(alice, carol, held) -> UUID:
    """One capture of each sort, one refund, one release, one hold that is open; its reference."""
    wallets.capture(held, 500_000, [Share(carol, 100_000), Share("platform", 400_000)])
    wallets.refund(held, 50_000, "sorry")
    released, still = UUID(int=5), UUID(int=6)
    wallets.hold(alice, 1_000, released, HOUR)
    wallets.release(released)
    wallets.hold(alice, 2_000, still, HOUR)
    assert proof.check() == []
    return still


def found() -> list[str]:
    """What the proof says, but for the constraints that `damage` dropped."""
    return [line for line in proof.check() if not line.startswith("constraint")]


CUSTOMER = "(SELECT max(wallet_id) FROM billing_hold)"
NEW_TRANSFER = (
    "INSERT INTO billing_transfer (source_id, target_id, amount, kind, reference, idempotency_key, balance)"
    " VALUES ({}, 'x', 0)"
)
OPEN = "WHERE status = 'held'"
CHARGED = "WHERE status = 'captured'"


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("sql", "said"),
    [
        (f"UPDATE billing_wallet SET balance = 550001 WHERE id = {CUSTOMER}", "balance 550001, transfers say 550000"),
        (f"UPDATE billing_wallet SET balance = 550001 WHERE id = {CUSTOMER}", "all wallets sum to 1"),
        (f"UPDATE billing_wallet SET held = held - 1 WHERE id = {CUSTOMER}", "held 1999, open holds say 2000"),
        (f"UPDATE billing_wallet SET balance = 1999 WHERE id = {CUSTOMER}", "overdrawn, balance 1999, held 2000"),
        ("UPDATE billing_wallet SET balance = 1 WHERE kind = 'creator'", "a creator wallet stores a balance"),
        ("UPDATE billing_wallet SET balance = 1 WHERE kind = 'platform'", "a platform wallet stores a balance"),
        ("DELETE FROM billing_wallet WHERE kind = 'platform'", "wallet 2: the platform wallet is missing"),
        ("DELETE FROM billing_wallet WHERE kind = 'mint'", "wallet 1: the mint wallet is missing"),
        ("DELETE FROM billing_wallet WHERE kind = 'creator'", "capture of 100000 from customer to nowhere"),
        ("UPDATE billing_transfer SET amount = amount + 1 WHERE kind = 'grant'", "transfers say 550001"),
        ("UPDATE billing_transfer SET amount = amount + 1 WHERE kind = 'capture'", "transfers say 500002 and 50000"),
        ("UPDATE billing_transfer SET amount = amount + 1 WHERE kind = 'refund'", "transfers say 500000 and 50002"),
        ("UPDATE billing_transfer SET amount = 0 WHERE kind = 'refund'", "refund of 0 from platform to customer"),
        ("UPDATE billing_transfer SET source_id = target_id WHERE kind = 'grant'", "from customer to customer"),
        ("UPDATE billing_transfer SET target_id = 2 WHERE kind = 'grant'", "grant of 1000000 from mint to platform"),
        ("UPDATE billing_transfer SET kind = 'gift' WHERE kind = 'grant'", "gift of 1000000 from mint to customer"),
        ("DELETE FROM billing_transfer WHERE kind = 'grant'", "transfers say -450000"),
        ("DELETE FROM billing_transfer WHERE kind = 'refund'", "refunded 50000, transfers say 500000 and 0"),
        ("UPDATE billing_transfer SET balance = balance - 1 WHERE kind = 'refund'", "balance 549999 after it"),
        (NEW_TRANSFER.format(f"1, {CUSTOMER}, 5, 'grant', NULL"), "balance 550000, transfers say 550005"),
        (NEW_TRANSFER.format(f"{CUSTOMER}, 2, 5, 'capture', gen_random_uuid()"), "capture of a hold that its wallet"),
        (f"UPDATE billing_hold SET amount = amount + 1 {OPEN}", "held 2000, open holds say 2001"),
        (f"UPDATE billing_hold SET amount = 0 {OPEN}", "held, amount 0"),
        (f"UPDATE billing_hold SET resolved_at = now() {OPEN}", "held, amount 2000, captured 0, refunded 0, res"),
        (f"UPDATE billing_hold SET status = 'lost', resolved_at = now() {OPEN}", "lost, amount 2000"),
        (f"DELETE FROM billing_hold {OPEN}", "held 2000, open holds say 0"),
        (f"UPDATE billing_hold SET captured = captured - 1 {CHARGED}", "captured 499999, refunded 50000, transfers"),
        (f"UPDATE billing_hold SET captured = amount + 1 {CHARGED}", "captured, amount 600000, captured 600001"),
        (f"UPDATE billing_hold SET refunded = 0 {CHARGED}", "captured 500000, refunded 0, transfers say"),
        (f"UPDATE billing_hold SET refunded = captured + 1 {CHARGED}", "captured 500000, refunded 500001, resolved"),
        (f"UPDATE billing_hold SET status = 'released' {CHARGED}", "released, amount 600000, captured 500000"),
        (f"UPDATE billing_hold SET resolved_at = NULL {CHARGED}", "resolved never"),
        (f"UPDATE billing_hold SET wallet_id = 2 {CHARGED}", "capture of a hold that its wallet does not have"),
        (f"UPDATE billing_hold SET reference = gen_random_uuid() {CHARGED}", "refund of a hold that its wallet"),
        (f"DELETE FROM billing_hold {CHARGED}", "capture of a hold that its wallet does not have"),
    ],
)  # fmt: skip
def test_damage_to_a_row_is_found(books, sql, said):
    damage(sql)
    assert [line for line in found() if said in line], found()


@pytest.fixture
def lots_and_debts(books, bob, alice) -> None:
    """Lots of each kind that were drawn from, put back into, expired, clawed back and owed."""
    lot = wallets.purchase(bob, 1_000, 100, "eur", "pi_1")
    wallets.grant(bob, 100, "old", expires_at=timezone.now())
    assert lots.expire() == 100
    wallets.hold(bob, 300, job := UUID(int=7), HOUR)
    wallets.capture(job, 300)
    wallets.refund(job, 100, "sorry, bob")
    debts.claw_back(lot, 100, "dispute", "dp_1")
    for owner in (alice, bob):
        lots.position(owner)
    assert proof.check() == []


PAID = "WHERE lot_id = (SELECT id FROM billing_lot WHERE kind = 'paid')"


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("sql", "said"),
    [
        ("DELETE FROM billing_lot WHERE kind = 'paid'", "its lot is missing"),
        ("UPDATE billing_lot SET transfer_id = 0 WHERE kind = 'paid'", "its lot is missing"),
        ("UPDATE billing_lot SET kind = 'granted' WHERE kind = 'paid'", "purchase of 1000 to wallet"),
        ("UPDATE billing_lot SET amount = amount + 1 WHERE kind = 'paid'", "0 of 1001 left"),
        ("UPDATE billing_lot SET remaining = remaining + 1 WHERE kind = 'paid'", "1 left in lots"),
        ("UPDATE billing_lot SET remaining = remaining + 1 WHERE kind = 'paid'", "1 of 1000 left"),
        ("UPDATE billing_lot SET spent_minor = 99 WHERE kind = 'paid'", "99 of 100 spent, its draws say 1000 and 100"),
        ("UPDATE billing_lot SET wallet_id = 2 WHERE kind = 'paid'", "in wallet 2"),
        ("UPDATE billing_lotcursor SET last_transfer_id = 0", "capture of 300, ahead of its lots, its draws say 300"),
        ("DELETE FROM billing_draw", "its draws say 0"),
        (f"UPDATE billing_draw SET amount = amount + 1 {PAID}", "capture of 300, followed, its draws say 301"),
        (f"UPDATE billing_draw SET money_minor = 0 {PAID}", "its draws say 1000 and 0"),
        (f"UPDATE billing_draw SET money_minor = -money_minor {PAID}", "drew 300 from a paid lot"),
        (f"UPDATE billing_draw SET money_minor = money_minor - 30 {PAID} AND amount < 0", "-10 in money left of its"),
        ("UPDATE billing_draw SET lot_id = gen_random_uuid()", "from a missing lot"),
        ("UPDATE billing_draw SET transfer_id = -id WHERE amount < 0", "nothing drew -"),
        ("UPDATE billing_draw SET lot_id = (SELECT id FROM billing_lot WHERE kind = 'paid')", "expiry drew 100 from a"),
        ("UPDATE billing_clawback SET collected = collected + 1", "claw-backs collected 801, transfers say 800"),
        ("UPDATE billing_clawback SET collected = amount", "1000 of 1000 collected, settled never"),
        ("UPDATE billing_wallet SET frozen = NOT frozen WHERE frozen", "frozen is f with 1 open debts"),
        (f"UPDATE billing_wallet SET frozen = true WHERE id = {CUSTOMER}", "frozen is t with 0 open debts"),
        ("UPDATE billing_wallet SET balance = 5 WHERE frozen; UPDATE billing_lot SET remaining = 6 WHERE kind = 'paid'",
         "owes 200 while 5 that can pay are available"),
    ],
)  # fmt: skip
def test_damage_to_lots_and_debts_is_found(lots_and_debts, sql, said):
    damage(sql)
    assert [line for line in found() if said in line], found()


@pytest.mark.django_db
def test_what_is_dropped_to_make_damage_is_no_damage_to_the_rows(books):
    damage("SELECT 1")
    assert found() == []


@pytest.mark.django_db
@pytest.mark.parametrize("how", ["DISABLE TRIGGER", "ENABLE REPLICA TRIGGER"])
@pytest.mark.parametrize(
    ("table", "trigger"),
    [
        ("billing_transfer", "transfer_append_only"),
        ("billing_hold", "hold_resolved_once"),
        ("billing_hold", "hold_kept"),
        ("billing_wallet", "wallet_kept"),
        ("billing_wallet", "wallet_keeps_its_owner"),
        ("billing_pricelistversion", "price_list_immutable"),
        ("billing_lot", "lot_kept"),
        ("billing_lot", "lot_keeps_its_terms"),
        ("billing_draw", "draw_append_only"),
        ("billing_clawback", "clawback_kept"),
        ("billing_clawback", "clawback_settled_once"),
        ("billing_earning", "earning_kept"),
        ("billing_earning", "earning_keeps_its_terms"),
        ("billing_exchange", "exchange_append_only"),
        ("billing_funding", "funding_append_only"),
        ("billing_payout", "payout_kept"),
        ("billing_payout", "payout_keeps_its_terms"),
        ("billing_purse", "purse_kept"),
    ],
)
def test_a_guard_that_is_switched_off_is_found(table, trigger, how):
    with connection.cursor() as cursor:
        cursor.execute(f"ALTER TABLE {table} {how} {trigger}")
    assert proof.check() == [f"trigger {trigger} of {table} is missing or switched off"]


@pytest.mark.django_db
@pytest.mark.parametrize("table", CONSTRAINTS)
def test_a_constraint_that_is_dropped_is_found(table):
    for name in CONSTRAINTS[table]:
        with connection.cursor() as cursor:
            cursor.execute(f"ALTER TABLE {table} DROP CONSTRAINT {name}")
        assert f"constraint {name} is missing or switched off" in proof.check()
