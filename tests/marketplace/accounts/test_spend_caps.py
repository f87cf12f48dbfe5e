"""Spend caps of API keys and accounts: never exceeded, explained, and out of reach of the keys that they cap."""

from datetime import timedelta
from uuid import uuid4

import pytest
from django.db import connection
from django.utils import timezone

from billing.errors import SpendCapReached
from billing.models import Hold, TopUp
from billing.tokens import lots, spending, wallets
from marketplace.accounts import keys
from marketplace.jobs import lifecycle, submission
from marketplace.jobs.models import Job
from tests.marketplace.people import Customer, customer
from tests.threads import together

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("ledger_is_right")]

ORDER = {"prompt": "a red circle", "width": 256, "height": 256, "steps": 20}
UNIT = 1250


def capped(someone: Customer, **caps: int) -> Customer:
    row, text = keys.issue(someone.account.id, "capped", **caps)
    return Customer(someone.account, text, row.id)


def cap_account(someone: Customer, **caps: int) -> None:
    type(someone.account).objects.filter(id=someone.account.id).update(**caps)


def refusal(answer):
    assert answer.status_code == 402, answer.content
    return answer.json()["error"]


def deliver(job_id, picture):
    claimed = lifecycle.claim(job_id, "w1")
    lifecycle.complete(claimed, [picture(claimed)], {})


def spent(someone, key):
    """What was spent today and this month (UTC)."""
    today = timezone.now().replace(hour=0, minute=0, second=0, microsecond=0)
    return spending.spent(someone.account.id, key.key_id, today, today.replace(day=1))


def settled_on(job_id, moment):
    """Puts the charge of a job on another day."""
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL session_replication_role = replica")
        cursor.execute("UPDATE billing_hold SET resolved_at = %s WHERE reference = %s", [moment, job_id])
        cursor.execute("SET LOCAL session_replication_role = origin")


@pytest.mark.parametrize(("period", "name"), [("day", "daily_cap"), ("month", "monthly_cap")])
def test_a_key_spends_up_to_its_cap_and_is_told_when_it_may_again(alice, period, name):
    key = capped(alice, **{name: 2 * UNIT + 1})
    assert [key.post("/v1/jobs", ORDER).status_code for _ in range(2)] == [202, 202]
    refused = refusal(key.post("/v1/jobs", ORDER))
    assert (refused["type"], refused["code"]) == ("payment", f"key_{name}_reached")
    for said in ("costs 1.25 Tokens", "0.001 are left", f"2.501 a {period}", "T00:00:00Z"):
        assert said in refused["message"]
    assert Job.objects.count() == 2
    assert alice.post("/v1/jobs", ORDER).status_code == 202
    assert alice.balance[1] == 3 * UNIT


@pytest.mark.parametrize("name", ["daily_cap", "monthly_cap"])
def test_an_accounts_cap_is_shared_by_its_keys(alice, name):
    other = capped(alice)
    cap_account(alice, **{name: 2 * UNIT})
    assert alice.post("/v1/jobs", ORDER).status_code == 202
    assert other.post("/v1/jobs", ORDER).status_code == 202
    for key in (alice, other):
        assert refusal(key.post("/v1/jobs", ORDER))["code"] == f"account_{name}_reached"
    assert customer("carol", 10).post("/v1/jobs", ORDER).status_code == 202


def test_a_job_without_a_key_counts_for_the_account(alice, order):
    cap_account(alice, daily_cap=UNIT)
    submission.submit(alice.account.id, order())
    with pytest.raises(SpendCapReached):
        submission.submit(alice.account.id, order())


def test_what_is_released_or_refunded_can_be_spent_again(alice, picture):
    key = capped(alice, daily_cap=UNIT)
    canceled = key.post("/v1/jobs", ORDER).json()["id"]
    assert key.post("/v1/jobs", ORDER).status_code == 402
    key.post(f"/v1/jobs/{canceled}/cancel")
    charged = key.post("/v1/jobs", ORDER).json()["id"]
    deliver(charged, picture)
    assert key.post("/v1/jobs", ORDER).status_code == 402
    wallets.refund(charged, UNIT, "a bad picture")
    assert key.post("/v1/jobs", ORDER).status_code == 202


@pytest.mark.parametrize("followed", [False, True])
def test_a_charge_and_its_refund_count_on_the_day_of_the_charge(alice, picture, followed):
    key = capped(alice, daily_cap=UNIT)
    job = key.post("/v1/jobs", ORDER).json()["id"]
    deliver(job, picture)
    now = timezone.now()
    settled_on(job, now - timedelta(days=1))
    if followed:
        lots.position(alice.account.id)
    found = spent(alice, key)
    assert (found.day, found.spender_day) == (0, 0)
    assert found.spender_month == (UNIT if now.day > 1 else 0)
    wallets.refund(job, UNIT, "a bad picture")
    found = spent(alice, key)
    assert (found.day, found.month, found.spender_day, found.spender_month) == (0, 0, 0, 0)
    assert key.post("/v1/jobs", ORDER).status_code == 202
    assert key.post("/v1/jobs", ORDER).status_code == 402


def test_what_is_still_held_counts_whenever_it_was_ordered(alice):
    key = capped(alice, daily_cap=UNIT)
    key.post("/v1/jobs", ORDER)
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL session_replication_role = replica")
        cursor.execute("UPDATE billing_hold SET created_at = now() - interval '40 days'")
        cursor.execute("SET LOCAL session_replication_role = origin")
    assert refusal(key.post("/v1/jobs", ORDER))["code"] == "key_daily_cap_reached"


def test_a_repeated_request_is_answered_also_when_the_cap_is_reached(alice):
    key = capped(alice, daily_cap=UNIT)
    first = key.post("/v1/jobs", ORDER, Idempotency_Key="k").json()["id"]
    assert key.post("/v1/jobs", ORDER, Idempotency_Key="k").json()["id"] == first
    assert key.post("/v1/jobs", ORDER, Idempotency_Key="l").status_code == 402


def test_too_few_tokens_are_said_before_the_cap_is_full(bob):
    key = capped(bob, daily_cap=UNIT)
    assert refusal(key.post("/v1/jobs", ORDER))["code"] == "insufficient_tokens"


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("whose", ["key", "account"])
def test_sixteen_at_once_never_spend_more_than_the_cap(alice, picture, whose):
    spenders = [alice] * 16
    if whose == "key":
        spenders = [capped(alice, daily_cap=5 * UNIT + UNIT // 2)] * 16
    else:
        cap_account(alice, monthly_cap=5 * UNIT + UNIT // 2)
    answers = together(16, lambda number: spenders[number].post("/v1/jobs", ORDER).status_code)
    assert sorted(answers) == [202] * 5 + [402] * 11
    assert alice.balance[1] == 5 * UNIT

    def charge_and_buy(number):
        if number < 5:
            deliver(bought[number], picture)
        return spenders[number].post("/v1/jobs", ORDER).status_code

    bought = list(Job.objects.values_list("id", flat=True))
    assert together(16, charge_and_buy) == [402] * 16
    assert lots.catch_up() == 1
    assert spenders[0].post("/v1/jobs", ORDER).status_code == 402


@pytest.mark.django_db(transaction=True)
def test_one_key_with_a_cap_does_not_hold_up_others_of_its_group(alice):
    """Sixteen at once share statements; only the capped one is looked at alone."""
    key, carol = capped(alice, daily_cap=UNIT), customer("carol", 100)
    answers = together(16, lambda number: (key if number % 2 else carol).post("/v1/jobs", ORDER).status_code)
    assert answers[::2] == [202] * 8
    assert sorted(answers[1::2]) == [202] + [402] * 7


# --- the API and the operator ---


def test_caps_are_set_changed_and_removed(alice):
    made = alice.post("/v1/keys", {"name": "shop", "daily_cap": "1.25"}).json()
    assert (made["daily_cap"], made["monthly_cap"]) == ("1.25", None)
    shop = Customer(alice.account, made["key"], made["id"])
    assert shop.post("/v1/jobs", ORDER).status_code == 202
    assert shop.post("/v1/jobs", ORDER).status_code == 402
    path = f"/v1/keys/{made['id']}"
    changed = alice.patch(path, {"daily_cap": None, "monthly_cap": "2.5"}).json()
    assert (changed["name"], changed["daily_cap"], changed["monthly_cap"]) == ("shop", None, "2.5")
    assert shop.post("/v1/jobs", ORDER).status_code == 202
    assert refusal(shop.post("/v1/jobs", ORDER))["code"] == "key_monthly_cap_reached"
    assert alice.patch(path, {"name": "market"}).json()["monthly_cap"] == "2.5"
    assert alice.patch(path, {"monthly_cap": None}).json()["monthly_cap"] is None
    assert shop.post("/v1/jobs", ORDER).status_code == 202


@pytest.mark.parametrize("value", [5, -1, "-1", "1.2345", "", True, []])
def test_a_cap_that_is_none_is_refused(alice, value):
    for answer in (
        alice.post("/v1/keys", {"name": "x", "daily_cap": value}),
        alice.patch(f"/v1/keys/{alice.key_id}", {"monthly_cap": value}),
    ):
        assert answer.status_code == 422, answer.content


def test_a_cap_of_nothing_buys_nothing(alice):
    assert refusal(capped(alice, daily_cap=0).post("/v1/jobs", ORDER))["code"] == "key_daily_cap_reached"


def test_a_capped_key_cannot_get_round_its_cap(alice):
    key = capped(alice, monthly_cap=UNIT)
    for answer in (
        key.post("/v1/keys", {"name": "free"}),
        key.patch(f"/v1/keys/{key.key_id}", {"monthly_cap": None}),
        key.patch(f"/v1/keys/{alice.key_id}", {"daily_cap": "1"}),
        key.delete(f"/v1/keys/{alice.key_id}"),
        key.put("/v1/topups/automatic", {"pack": "small", "currency": "eur", "threshold": "9", "daily_cap": "500.00"}),
        key.delete("/v1/topups/automatic"),
        key.post("/v1/topups", {"pack": "small", "currency": "eur", "save_card": True}),
        key.post("/v1/topups", {"pack": "small", "currency": "eur"}),
    ):
        assert answer.status_code == 403
        assert answer.json()["error"]["code"] == "capped_key"
    assert keys.ApiKey.objects.get(id=key.key_id).monthly_cap == UNIT
    assert keys.ApiKey.objects.filter(revoked_at=None).count() == 2
    assert not TopUp.objects.exists()
    assert key.delete(f"/v1/keys/{key.key_id}").status_code == 200, "whoever has it may give it up"
    assert key.get("/v1/balance").status_code == 401


def test_another_customers_key_cannot_be_changed(alice, bob):
    for key_id in (alice.key_id, uuid4()):
        assert bob.patch(f"/v1/keys/{key_id}", {"daily_cap": "0"}).status_code == 404
    assert keys.ApiKey.objects.get(id=alice.key_id).daily_cap is None


def test_the_balance_says_apart_what_the_account_and_the_key_spent(alice, picture):
    key = capped(alice, daily_cap=2 * UNIT, monthly_cap=10 * UNIT)
    cap_account(alice, monthly_cap=100_000)
    deliver(alice.post("/v1/jobs", ORDER).json()["id"], picture)
    deliver(key.post("/v1/jobs", ORDER).json()["id"], picture)
    key.post("/v1/jobs", {**ORDER, "service_class": "batch"})
    body = key.get("/v1/balance").json()
    shown = {
        (whose, period): tuple(body[whose][period][name] for name in ("spent", "cap", "left"))
        for whose in ("account", "key")
        for period in ("day", "month")
    }
    assert shown == {
        ("account", "day"): ("3.125", None, None),
        ("account", "month"): ("3.125", "100", "96.875"),
        ("key", "day"): ("1.875", "2.5", "0.625"),
        ("key", "month"): ("1.875", "12.5", "10.625"),
    }
    assert body["key"]["id"] == str(key.key_id)
    today = timezone.now().date()
    assert body["key"]["day"]["resets_at"] == f"{today + timedelta(days=1)}T00:00:00.000Z"
    assert body["key"]["month"]["resets_at"][8:] == "01T00:00:00.000Z"
    assert body["total"] == "997.5"
    first = alice.get("/v1/balance").json()["key"]
    assert (first["day"]["spent"], first["day"]["cap"]) == ("1.25", None)


def test_holds_know_the_key_for_good(alice):
    alice.post("/v1/jobs", ORDER)
    assert Hold.objects.get().spender == alice.key_id
