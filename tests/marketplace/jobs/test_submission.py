"""Jobs that are bought in one statement: each customer gets what it would have got alone."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from django.db import DataError, OperationalError, connection, transaction

from billing.errors import InsufficientTokens
from billing.prices import price_lists
from billing.tokens import wallets
from devstack import processes
from marketplace.accounts import keys
from marketplace.jobs import submission
from marketplace.jobs.errors import CostAboveMaximum, KeyReused
from marketplace.jobs.grouping import Group
from marketplace.jobs.models import Job
from tests.marketplace.people import customer

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("ledger_is_right")]

UNIT = 1250


@pytest.fixture
def together(monkeypatch):
    """Calls these purchases at once, in one statement; what each returned or raised."""
    served: list[int] = []
    expected = 0

    def carry(jobs):
        if jobs == ["opener"]:  # keeps the others waiting until they are all there
            until = time.monotonic() + 10
            while len(group._waiting) < expected and time.monotonic() < until:
                time.sleep(0.001)
            return [None]
        served.append(len(jobs))
        return submission._buy_together(jobs)

    group = Group(carry, 32)
    monkeypatch.setattr(submission, "_GROUP", group)

    def outcome(purchase):
        while not group._busy:
            time.sleep(0.001)
        try:
            return purchase()
        except Exception as error:  # noqa: BLE001 - that is the outcome
            return error
        finally:
            connection.close()

    def call(*purchases):
        nonlocal expected
        expected = len(purchases)
        served.clear()
        with ThreadPoolExecutor(len(purchases) + 1) as pool:
            waiting = [pool.submit(outcome, purchase) for purchase in purchases]
            group.join("opener")
            outcomes = [each.result(20) for each in waiting]
        assert served[0] == len(purchases)
        return outcomes

    return call


@contextmanager
def elsewhere(sql, *values):
    """Somebody else's transaction, which has run this statement and is not over yet; yields to end it."""
    ready, over = threading.Event(), threading.Event()

    def hold_open():
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(sql, values)
            ready.set()
            over.wait(20)
        connection.close()

    thread = threading.Thread(target=hold_open)
    thread.start()
    assert ready.wait(5)
    try:
        yield over.set
    finally:
        over.set()
        thread.join()


@pytest.fixture
def buy(order):
    """Makes a purchase to be called later."""

    def make(someone, *, idempotency_key=None, **changes):
        wanted = order(**changes)
        return lambda: submission.submit(
            someone.account.id, wanted, key_id=someone.key_id, idempotency_key=idempotency_key
        )

    return make


def in_the_books():
    return set(Job.objects.values_list("id", flat=True))


def test_one_without_tokens_does_not_keep_the_others_from_buying(alice, bob, buy, together):
    carol = customer("carol", 10)
    first, second, refused, third = together(buy(alice), buy(alice), buy(bob), buy(carol))
    assert isinstance(refused, InsufficientTokens)
    assert (refused.available, refused.needed) == (0, UNIT)
    assert in_the_books() == {first.job.id, second.job.id, third.job.id}
    assert alice.balance[1] == 2 * UNIT
    assert carol.balance == (10_000 - UNIT, UNIT)
    assert bob.balance == (0, 0)


def test_a_wallet_pays_for_as_many_as_it_can(bob, buy, together):
    wallets.grant(bob.account.id, 3 * UNIT, "three")
    outcomes = together(*[buy(bob)] * 5)
    assert [isinstance(each, InsufficientTokens) for each in outcomes].count(True) == 2
    assert bob.balance == (0, 3 * UNIT)


def test_tokens_that_come_while_a_purchase_waits_for_the_wallet_pay_for_it(bob, buy):
    with ThreadPoolExecutor(1) as pool:
        with transaction.atomic():
            wallets.grant(bob.account.id, UNIT, "just in time")
            waiting = pool.submit(in_a_thread, buy(bob))
            assert processes.wait_until(is_anybody_waiting, 15)
        assert waiting.result(20).job.quoted == UNIT
    assert bob.balance == (0, UNIT)


def in_a_thread(purchase):
    try:
        return purchase()
    finally:
        connection.close()


def is_anybody_waiting():
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_locks WHERE NOT granted")
        return cursor.fetchone()[0]


def test_one_that_is_too_dear_does_not_keep_a_cheaper_one_of_the_same_wallet_from_buying(bob, buy, together):
    wallets.grant(bob.account.id, UNIT, "one")
    dear, cheap = together(buy(bob, n=4), buy(bob))
    assert isinstance(dear, InsufficientTokens)
    assert bob.balance == (0, UNIT)
    assert Job.objects.get(account=bob.account).id == cheap.job.id


def test_one_idempotency_key_thrice_in_a_statement_buys_once(alice, buy, together):
    outcomes = together(*[buy(alice, idempotency_key="k")] * 3)
    assert sorted(each.replayed for each in outcomes) == [False, True, True]
    assert len({each.job.id for each in outcomes}) == 1
    assert alice.balance[1] == UNIT


def test_one_idempotency_key_with_two_orders_in_a_statement_buys_one_of_them(alice, buy, together):
    outcomes = together(buy(alice, idempotency_key="k", seed=1), buy(alice, idempotency_key="k", seed=2))
    assert [type(each) for each in outcomes].count(KeyReused) == 1
    assert alice.balance[1] == UNIT


def test_an_order_that_the_database_refuses_fails_alone(alice, buy, together):
    carol = customer("carol", 10)
    bad, good = together(buy(alice, prompt="\x00"), buy(carol))
    assert isinstance(bad, DataError)
    assert in_the_books() == {good.job.id}
    assert (alice.balance[1], carol.balance[1]) == (0, UNIT)


def test_a_statement_that_is_cut_off_buys_nothing_for_anybody(alice, buy, together):
    carol = customer("carol", 10)
    with elsewhere("SELECT 1 FROM accounts_account WHERE id = %s FOR UPDATE", carol.account.id) as end:
        cut = threading.Thread(target=cut_the_waiting_one)
        cut.start()
        one, other = together(buy(alice), buy(carol))
        cut.join()
        end()
    assert isinstance(one, OperationalError)
    assert isinstance(other, OperationalError)
    assert (alice.balance[1], carol.balance[1]) == (0, 0)
    buy(carol)()
    assert carol.balance[1] == UNIT


def cut_the_waiting_one():
    """Ends the server process that waits for somebody else's lock."""
    with connection.cursor() as cursor:
        for _ in range(500):
            cursor.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE wait_event_type = 'Lock' AND datname = current_database()"
            )
            if cursor.fetchall():
                break
            time.sleep(0.01)
    connection.close()


def test_a_locked_wallet_delays_its_own_customer_only(alice, buy, together):
    carol = customer("carol", 10)
    with elsewhere("SELECT 1 FROM billing_wallet WHERE owner = %s FOR UPDATE", alice.account.id) as unlock:

        def buy_and_unlock():
            bought = buy(carol)()
            assert alice.balance[1] == 0
            unlock()
            return bought

        delayed, prompt = together(buy(alice), buy_and_unlock)
    assert in_the_books() == {delayed.job.id, prompt.job.id}
    assert alice.balance[1] == UNIT


def test_jobs_of_one_statement_stand_in_line_one_behind_the_other(alice, buy, together):
    buy(alice)()
    *standard, batch = together(*[buy(alice)] * 4, buy(alice, service_class="batch"))
    assert sorted(each.queue_position for each in standard) == [2, 3, 4, 5]
    assert batch.queue_position == 1


def test_a_job_is_given_back_as_it_stands_in_the_database(alice, buy):
    given = buy(alice, idempotency_key="k", metadata={"a": "b"})().job
    stored = Job.objects.get()
    names = [field.attname for field in Job._meta.concrete_fields]
    assert {name: getattr(given, name) for name in names} == {name: getattr(stored, name) for name in names}


def test_inside_a_transaction_a_job_is_bought_alone_and_undone_with_it(alice, buy, monkeypatch):
    monkeypatch.setattr(submission, "_GROUP", None)
    with transaction.atomic():
        buy(alice)()
        transaction.set_rollback(True)
    assert not Job.objects.exists()
    assert alice.balance[1] == 0


# --- a key that was seen working a moment ago ---

DENIED = 'Bearer realm="kiln", error="invalid_token"'
ORDER = {"prompt": "a red circle", "width": 256, "height": 256, "steps": 20}


def revoke_key(alice):
    keys.revoke(alice.account.id, alice.key_id)


def close_account(alice):
    alice.account.is_active = False
    alice.account.save()


def lock_out_owner(alice):
    alice.account.owner.is_active = False
    alice.account.owner.save()


@pytest.mark.parametrize(
    ("end", "status", "code"),
    [
        (revoke_key, 401, "invalid_api_key"),
        (close_account, 403, "account_switched_off"),
        (lock_out_owner, 403, "account_switched_off"),
    ],
)
@pytest.mark.parametrize(
    "headers", [{}, {"Idempotency_Key": "earlier"}, {"Idempotency_Key": "new"}], ids=["no key", "replay", "new key"]
)
def test_a_key_that_has_just_ended_buys_nothing_and_learns_nothing(alice, end, status, code, headers):
    assert alice.post("/v1/jobs", ORDER, Idempotency_Key="earlier").status_code == 202
    end(alice)
    answer = alice.post("/v1/jobs", ORDER, **headers)
    assert answer.status_code == status
    assert answer.json()["error"]["code"] == code
    assert answer.headers.get("WWW-Authenticate") == (DENIED if status == 401 else None)
    assert alice.post("/v1/jobs", ORDER | {"max_cost": "0.001"}).status_code == status
    assert alice.get("/v1/jobs").status_code == status
    assert Job.objects.count() == 1
    assert alice.balance[1] == UNIT


def test_a_replay_is_given_also_where_it_would_now_be_too_dear(alice, buy):
    first = buy(alice, idempotency_key="k", max_cost=UNIT)()
    listed = vars(price_lists.current()) | {"base_cost": 200_000}
    price_lists.publish(**{name: value for name, value in listed.items() if name != "version"})
    price_lists.forget()
    assert buy(alice, idempotency_key="k", max_cost=UNIT)().job.id == first.job.id
    with pytest.raises(CostAboveMaximum):
        buy(alice, max_cost=UNIT)()


def test_the_plan_scans_no_table(alice, buy):
    scans = "SELECT relname, seq_scan FROM pg_stat_user_tables WHERE relname ~ '^(billing|jobs|accounts)_' ORDER BY 1"
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE")
        for _ in range(10):
            buy(alice)()
        cursor.execute("SELECT pg_stat_force_next_flush()")
        cursor.execute(scans)
        before = cursor.fetchall()
        for _ in range(10):
            buy(alice)()
        cursor.execute("SELECT pg_stat_force_next_flush()")
        cursor.execute(scans)
        assert cursor.fetchall() == before
