"""Prepared statements beside Django's own: in its transactions, with its errors, and whatever the values are."""

from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest
from django.db import DatabaseError, DataError, IntegrityError, OperationalError, connection, transaction
from psycopg.errors import UniqueViolation

from billing.models import Wallet
from billing.prepared import rows, run
from billing.tokens import wallets

OPEN = "INSERT INTO billing_wallet (owner) VALUES (%(owner)s)"
ECHO = """
SELECT %(number)s::bigint, %(id)s::uuid, %(text)s::text, %(moment)s::timestamptz, %(lasts)s::interval, %(yes)s::boolean,
       %(text)s::text || %(none)s::text
"""
PREPARED = "SELECT count(*) FROM pg_prepared_statements WHERE statement LIKE '%%$2::uuid, $3::text%%'"


@pytest.mark.django_db
@pytest.mark.parametrize("number", [0, -1, 2**15, 2**31, 2**63 - 1])
@pytest.mark.parametrize("text", ["", "%s %(id)s 100%", "'; DROP TABLE billing_wallet; --", "\\", "陶 🏺"])
def test_values_come_back_as_they_went(number, text):
    values = {
        "number": number, "id": uuid4(), "text": text, "moment": datetime(2026, 2, 28, 23, 59, 59, 999_999, UTC),
        "lasts": timedelta(days=400, microseconds=1), "yes": True, "none": None,
    }  # fmt: skip
    assert run(ECHO, values) == tuple(values.values())


@pytest.mark.django_db
def test_one_plan_does_for_values_of_every_size():
    values = {"id": None, "text": None, "moment": None, "lasts": None, "yes": None, "none": None}
    for number in (None, 1, 2**15, 2**31, 2**62):
        assert run(ECHO, values | {"number": number}) == (number, *values.values())
    with connection.cursor() as cursor:
        cursor.execute(PREPARED)
        assert cursor.fetchone() == (1,)


@pytest.mark.django_db
def test_a_statement_answers_with_all_of_its_rows_or_none():
    numbers = "SELECT number::bigint FROM generate_series(1, %(last)s::bigint) AS number"
    assert rows(numbers, {"last": 3}) == [(1,), (2,), (3,)]
    assert rows(numbers, {"last": 0}) == []
    assert run(numbers, {"last": 0}) is None
    assert rows(OPEN, {"owner": uuid4()}) == []


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("before", [0, 1])
def test_what_begins_a_transaction_is_undone_with_it(bob, before):
    """Also where it was prepared before, outside."""
    for number in range(before):
        wallets.grant(bob, 5, f"before {number}")
    with transaction.atomic():
        wallets.grant(bob, 7, "undone")
        transaction.set_rollback(True)
    assert wallets.balance(bob).total == 5 * before
    with transaction.atomic():
        wallets.grant(bob, 7, "done")
    assert wallets.balance(bob).total == 5 * before + 7


@pytest.mark.django_db(transaction=True)
def test_what_the_database_refuses_raises_djangos_error_and_undoes_the_savepoint(bob):
    with pytest.raises(IntegrityError) as refused:
        run(OPEN, {"owner": bob})
    assert isinstance(refused.value.__cause__, UniqueViolation)
    with transaction.atomic():
        run(OPEN, {"owner": UUID(int=7)})
        with pytest.raises(IntegrityError), transaction.atomic():
            run(OPEN, {"owner": bob})
        with pytest.raises(DataError), transaction.atomic():
            run("SELECT %(text)s::text", {"text": "\0"})
        run(OPEN, {"owner": UUID(int=8)})
    assert Wallet.objects.filter(owner__in=[UUID(int=7), UUID(int=8)]).count() == 2


@pytest.mark.django_db(transaction=True)
def test_nothing_runs_in_a_transaction_that_is_broken(bob):
    with transaction.atomic():
        transaction.set_rollback(True)
        with pytest.raises(transaction.TransactionManagementError):
            wallets.grant(bob, 5, "late")
    assert wallets.balance(bob).total == 0


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    "change", ["ALTER TABLE changing ALTER number TYPE bigint", "DEALLOCATE ALL"], ids=["table", "server"]
)
def test_a_plan_that_does_no_longer_is_made_again(change):
    with connection.cursor() as cursor:
        cursor.execute("CREATE TEMPORARY TABLE changing AS SELECT 7 AS number")
        assert run("SELECT number FROM changing", {}) == (7,)
        cursor.execute(change)
        with pytest.raises(DatabaseError):
            run("SELECT number FROM changing", {})
        assert run("SELECT number FROM changing", {}) == (7,)
        cursor.execute("DROP TABLE changing")


@pytest.mark.django_db(transaction=True)
def test_a_connection_that_was_cut_is_an_operational_error_and_the_next_one_works(bob):
    assert wallets.balance(bob).total == 0
    own = connection.connection.info.backend_pid
    with pytest.raises(OperationalError):
        run("SELECT pg_terminate_backend(%(own)s::int)", {"own": own})
    with pytest.raises(OperationalError):
        wallets.balance(bob)
    connection.close()
    assert wallets.balance(bob).total == 0
