"""What the database itself refuses, whoever asks: raw SQL, the ORM, an operator at a prompt."""

from uuid import UUID, uuid4

import pytest
from django.db import IntegrityError, connection
from django.utils import timezone

from billing.models import PriceListVersion, Transfer, Wallet
from billing.prices import price_lists
from billing.tokens import debts, lots, wallets
from tests.billing.books import HOUR, nothing_moves

pytestmark = pytest.mark.django_db


def refused(sql: str, *values, by: str) -> None:
    """The database refuses `sql`, naming the guard `by`, and nothing has changed."""
    with nothing_moves(), pytest.raises(IntegrityError, match=by), connection.cursor() as cursor:
        cursor.execute(sql, values)


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE billing_transfer SET amount = amount + 1",
        "UPDATE billing_transfer SET memo = 'another' WHERE false",
        "DELETE FROM billing_transfer",
        "DELETE FROM billing_transfer WHERE id = (SELECT max(id) FROM billing_transfer)",
    ],
)
def test_transfers_are_append_only(alice, sql):
    refused(sql, by="of billing_transfer is refused")


@pytest.mark.parametrize(
    "table", ["billing_transfer", "billing_hold", "billing_pricelistversion", "billing_draw", "billing_clawback"]
)
def test_the_books_cannot_be_truncated(alice, table):
    connection.check_constraints()
    refused(f"TRUNCATE {table}", by=f"TRUNCATE of {table} is refused")


def test_wallets_cannot_be_truncated_with_what_refers_to_them(alice):
    connection.check_constraints()
    for table in ("wallet", "lot"):
        refused(f"TRUNCATE billing_{table} CASCADE", by="TRUNCATE of billing_[a-z]+ is refused")


def test_the_orm_cannot_rewrite_or_delete_a_transfer(alice):
    transfer = Transfer.objects.latest("id")
    transfer.amount += 1
    for change in (transfer.save, transfer.delete, Transfer.objects.all().delete):
        with nothing_moves(), pytest.raises(IntegrityError, match=r"billing_transfer is refused|protected"):
            change()


@pytest.mark.parametrize(
    "change",
    ["balance = -1, held = -1", "balance = -1, held = 0", "held = balance + 1", "held = -1", "balance = held - 1"],
)
def test_no_wallet_is_ever_overdrawn(alice, held, change):
    refused(f"UPDATE billing_wallet SET {change} WHERE owner = %s", alice, by="wallet_never_overdrawn")


@pytest.mark.parametrize("change", ["owner = gen_random_uuid()", "kind = 'creator'", "id = id + 1000"])
def test_a_wallet_keeps_its_owner(alice, change):
    refused(f"UPDATE billing_wallet SET {change} WHERE owner = %s", alice, by="UPDATE of billing_wallet")


def test_a_wallet_cannot_be_deleted(bob):
    refused("DELETE FROM billing_wallet WHERE owner = %s", bob, by="DELETE of billing_wallet")


def test_an_owner_has_one_wallet_of_a_kind(alice):
    refused("INSERT INTO billing_wallet (owner) VALUES (%s)", alice, by="wallet_one_of_a_kind_per_owner")


@pytest.mark.parametrize("kind", ["platform", "mint"])
def test_there_is_one_platform_and_one_mint(kind):
    refused("INSERT INTO billing_wallet (kind) VALUES (%s)", kind, by="wallet_one_of_a_kind_per_owner")


@pytest.mark.parametrize("row", ["(NULL, 'customer')", "(gen_random_uuid(), 'mint')", "(gen_random_uuid(), 'purse')"])
def test_a_wallets_kind_says_whether_it_has_an_owner(row):
    refused(f"INSERT INTO billing_wallet (owner, kind) VALUES {row}", by="wallet_kind_has_owner")


def test_a_summed_wallet_stores_no_balance(carol):
    for wallet in Wallet.objects.exclude(kind="customer"):
        refused("UPDATE billing_wallet SET balance = 1 WHERE id = %s", wallet.id, by="wallet_summed_stores_nothing")


INSERT_TRANSFER = """
INSERT INTO billing_transfer (source_id, target_id, amount, kind, reference, idempotency_key, balance)
VALUES (1, (SELECT id FROM billing_wallet WHERE owner = %s), {amount}, {kind}, {reference}, {key}, {balance})
"""


@pytest.mark.parametrize(
    ("wrong", "guard"),
    [
        ({"amount": "0"}, "transfer_amount_positive"),
        ({"amount": "-5"}, "transfer_amount_positive"),
        ({"kind": "'gift'"}, "transfer_kind_has_reference"),
        ({"kind": "'refund'"}, "transfer_kind_has_reference"),
        ({"kind": "'capture'"}, "transfer_kind_has_reference"),
        ({"key": "''"}, "transfer_key_not_empty"),
        ({"key": "(SELECT max(idempotency_key) FROM billing_transfer)"}, "transfer_key_once"),
        ({"key": "NULL"}, "null value"),
        ({"balance": "NULL"}, "transfer_of_a_customer_has_balance"),
        ({"balance": "-1"}, "transfer_never_overdraws"),
    ],
)
def test_a_transfer_that_makes_no_sense_is_refused(alice, wrong, guard):
    good = {"amount": "5", "kind": "'grant'", "reference": "NULL", "key": "'mine'", "balance": "5"}
    refused(INSERT_TRANSFER.format(**good | wrong), alice, by=guard)


def test_a_transfer_runs_between_two_wallets():
    refused(
        "INSERT INTO billing_transfer (source_id, target_id, amount, kind, idempotency_key, balance)"
        " VALUES (1, 1, 5, 'grant', 'mine', 5)",
        by="transfer_between_two",
    )


@pytest.mark.parametrize(
    ("change", "guard"),
    [
        ("captured = 1", "hold_captured_says_so"),
        ("status = 'captured', resolved_at = now()", "hold_captured_says_so"),
        ("status = 'captured', captured = amount + 1, resolved_at = now()", "hold_captured_within_amount"),
        ("status = 'captured', captured = -1, resolved_at = now()", "hold_captured_says_so"),
        ("status = 'released', captured = 1, resolved_at = now()", "hold_captured_says_so"),
        ("status = 'lost', resolved_at = now()", "hold_captured_says_so"),
        ("status = 'released'", "hold_resolved_has_time"),
        ("resolved_at = now()", "hold_resolved_has_time"),
        ("refunded = 1", "hold_refunded_within_captured"),
        ("refunded = -1", "hold_refunded_within_captured"),
        ("amount = amount - 1", "keeps its wallet and amount"),
        ("reference = gen_random_uuid()", "keeps its wallet and amount"),
        ("wallet_id = wallet_id - 1", "keeps its wallet and amount"),
    ],
)
def test_an_open_hold_that_makes_no_sense_is_refused(held, change, guard):
    refused(f"UPDATE billing_hold SET {change} WHERE reference = %s", held, by=guard)


@pytest.mark.parametrize(
    "change",
    [
        "status = 'held', captured = 0, resolved_at = NULL",
        "status = 'released', captured = 0",
        "status = 'expired', captured = 0",
        "captured = captured - 1",
        "resolved_at = now() + interval '1 day'",
        "refunded = refunded - 1",
    ],
)
def test_a_captured_hold_stays_captured(held, change):
    wallets.capture(held, 500_000)
    wallets.refund(held, 5, "sorry")
    refused(f"UPDATE billing_hold SET {change} WHERE reference = %s", held, by="was captured already")


def test_a_released_hold_stays_released(held):
    wallets.release(held)
    refused(
        "UPDATE billing_hold SET status = 'captured', captured = 1 WHERE reference = %s",
        held,
        by="was released already",
    )


def test_a_hold_cannot_be_deleted(held):
    refused("DELETE FROM billing_hold WHERE reference = %s", held, by="DELETE of billing_hold")


def test_a_hold_of_nothing_is_refused(alice):
    refused(
        "INSERT INTO billing_hold (wallet_id, reference, amount, expires_at)"
        " SELECT id, gen_random_uuid(), 0, now() FROM billing_wallet WHERE owner = %s",
        alice,
        by="hold_amount_positive",
    )


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE billing_pricelistversion SET base_cost = base_cost + 1",
        "UPDATE billing_pricelistversion SET operations = '{}' WHERE version = 1",
        "DELETE FROM billing_pricelistversion WHERE version = 1",
    ],
)
def test_a_published_price_list_is_immutable(sql):
    before = price_lists.get(1)
    refused(sql, by="of billing_pricelistversion is refused")
    assert price_lists.get(1) == before


@pytest.mark.parametrize("column", ["version", "base_cost", "prompt_floor"])
def test_a_price_list_in_the_database_is_in_range(column):
    row = {"version": 9, "base_cost": 1, "prompt_floor": 1, "skipped_step": 0} | {column: 0}
    with nothing_moves(), pytest.raises(IntegrityError, match="price_list_in_range"):
        PriceListVersion.objects.create(**row, service_classes={"standard": 1}, operations={"generate": 1})


@pytest.fixture
def debt(bob, held) -> UUID:
    """Bob's, of a lot that was spent in part; alice's gift was drawn from too."""
    wallets.capture(held, 5)
    lot = wallets.purchase(bob, 1_000, 100, "eur", "pi_1", expires_at=timezone.now() + HOUR)
    wallets.hold(bob, 300, job := uuid4(), HOUR)
    wallets.capture(job, 300)
    owed = debts.claw_back(lot, 100, "dispute", "dp_1").id
    wallets.create(uuid4())
    for wallet in Wallet.objects.filter(kind="customer"):
        lots.allocate(wallet.id)
    return owed


@pytest.mark.parametrize(
    ("change", "guard"),
    [
        ("amount = amount + 1", "keeps its terms"),
        ("kind = 'granted'", "keeps its terms"),
        ("price_minor = price_minor - 1", "keeps its terms"),
        ("currency = 'usd'", "keeps its terms"),
        ("wallet_id = wallet_id + 1", "keeps its terms"),
        ("transfer_id = transfer_id + 1", "keeps its terms"),
        ("expires_at = expires_at - interval '1 second'", "keeps its terms"),
        ("expires_at = now()", "keeps its terms"),
        ("remaining = -1", "lot_within_amount"),
        ("remaining = amount + 1", "lot_within_amount"),
        ("remaining = 0, spent_minor = price_minor - 1", "lot_empty_is_paid_for"),
        ("remaining = 1, spent_minor = price_minor + 1", "lot_spent_within_price"),
        ("remaining = 1, spent_minor = -1", "lot_spent_within_price"),
    ],
)
def test_a_lot_keeps_its_terms_and_is_never_overdrawn(debt, change, guard):
    refused(f"UPDATE billing_lot SET {change} WHERE kind = 'paid'", by=guard)


@pytest.mark.parametrize(
    ("row", "guard"),
    [
        ("'granted', 5, 5, 1, ''", "lot_kind_has_price"),
        ("'granted', 5, 5, NULL, 'eur'", "lot_kind_has_price"),
        ("'paid', 5, 5, NULL, ''", "lot_kind_has_price"),
        ("'paid', 5, 5, 0, 'eur'", "lot_kind_has_price"),
        ("'paid', 5, 5, 1, 'euro'", "lot_kind_has_price"),
        ("'lent', 5, 5, NULL, ''", "lot_kind_has_price"),
        ("'granted', 0, 0, NULL, ''", "lot_within_amount"),
    ],
)
def test_a_lot_that_makes_no_sense_is_refused(alice, row, guard):
    columns = "wallet_id, transfer_id, kind, amount, remaining, price_minor, currency"
    refused(f"INSERT INTO billing_lot ({columns}) SELECT max(wallet_id), 0, {row} FROM billing_lot", by=guard)


@pytest.mark.parametrize("sql", ["UPDATE billing_draw SET amount = amount + 1", "DELETE FROM billing_draw"])
def test_draws_are_append_only(debt, sql):
    refused(sql, by="of billing_draw is refused")


@pytest.mark.parametrize(
    ("row", "guard"), [("1, -1", "money_follows"), ("-1, 1", "money_follows"), ("0, 0", "money_follows")]
)
def test_a_draw_moves_tokens_and_money_the_same_way(debt, row, guard):
    into = "INSERT INTO billing_draw (transfer_id, lot_id, amount, money_minor)"
    refused(f"{into} SELECT 0, id, {row} FROM billing_lot LIMIT 1", by=guard)


def test_a_transfer_draws_once_from_a_lot(debt):
    columns = "transfer_id, lot_id, amount, money_minor"
    refused(f"INSERT INTO billing_draw ({columns}) SELECT {columns} FROM billing_draw", by="draw_once")


@pytest.mark.parametrize("table", ["billing_lot", "billing_clawback"])
def test_lots_and_claw_backs_are_kept(debt, table):
    refused(f"DELETE FROM {table}", by=f"DELETE of {table} is refused")


@pytest.mark.parametrize(
    ("change", "guard"),
    [
        ("amount = amount - 1", "keeps its terms"),
        ("money_minor = 1", "keeps its terms"),
        ("reason = 'another'", "keeps its terms"),
        ("collected = collected - 1", "keeps its terms"),
        ("collected = amount + 1", "clawback_(within_amount|settled_says_how)"),
        ("collected = amount", "clawback_settled_says_how"),
        ("settled_at = now()", "clawback_settled_says_how"),
        ("settled_at = now(), settlement = 'paid'", "clawback_settled_says_how"),
        ("settled_at = now(), settlement = 'waived'", "clawback_settled_says_how"),
    ],
)
def test_a_debt_that_makes_no_sense_is_refused(debt, change, guard):
    refused(f"UPDATE billing_clawback SET {change}", by=guard)


def test_a_settled_debt_stays_settled(debt):
    debts.waive(debt, "forgiven")
    refused("UPDATE billing_clawback SET settled_at = NULL, settlement = '', waiver = ''", by="keeps its terms")
