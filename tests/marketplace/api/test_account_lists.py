"""Lists, statements and balances: pages that add up, what expires, and what is owed."""

from datetime import datetime, timedelta
from uuid import uuid4

import pytest
from django.utils import timezone

from billing.tokens import debts, lots, wallets
from marketplace.api.money.schemas import DebtBody
from tests.billing.books import lapse
from tests.marketplace.api.asking import COST, ORDER, buy, deliver, error

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("ledger_is_right")]


# --- lists ---


def test_jobs_are_listed_newest_first_page_by_page(alice):
    bought = [buy(alice, seed=seed)["id"] for seed in range(5)]
    seen, cursor = [], ""
    while cursor is not None:
        body = alice.get(f"/v1/jobs?limit=2{cursor and f'&cursor={cursor}'}").json()
        assert len(body["data"]) <= 2
        seen += [job["id"] for job in body["data"]]
        cursor = body["next_cursor"]
    assert seen == bought[::-1]


def test_jobs_by_status(alice):
    first, second = buy(alice), buy(alice, seed=8)
    alice.post(f"/v1/jobs/{first['id']}/cancel")
    assert [job["id"] for job in alice.get("/v1/jobs?status=canceled").json()["data"]] == [first["id"]]
    assert [job["id"] for job in alice.get("/v1/jobs?status=queued").json()["data"]] == [second["id"]]


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("limit=0", "limit"),
        ("limit=101", "limit"),
        ("limit=x", "limit"),
        ("limit=٥", "limit"),
        ("limit=1_0", "limit"),
        ("limit=%205", "limit"),
        ("limit=5.0", "limit"),
        ("limit=5&limit=6", "limit"),
        ("cursor=x", "cursor"),
        ("status=x", "status"),
        ("page=2", "page"),
    ],
)
@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/transfers"])
def test_a_bad_query(path, query, param, alice):
    assert error(alice.get(f"{path}?{query}"), 422)["param"] == param


def test_the_statement_adds_up_to_the_balance(alice, picture):
    for seed in range(3):
        deliver(buy(alice, seed=seed)["id"], picture)
    amounts, cursor = [], ""
    while cursor is not None:
        body = alice.get(f"/v1/transfers?limit=2{cursor and f'&cursor={cursor}'}").json()
        amounts += [float(row["amount"]) for row in body["data"]]
        cursor = body["next_cursor"]
    assert sum(amounts) == float(alice.get("/v1/balance").json()["total"]) == 1000 - 3.75


def test_the_balance_says_which_tokens_there_are_and_when_they_expire(bob, picture):
    soon, late = (timezone.now() + timedelta(days=days) for days in (7, 31))
    wallets.purchase(bob.account.id, 100_000, 990, "eur", "payment 1", reference=uuid4())
    wallets.grant(bob.account.id, 5_000, "gift 1", expires_at=soon)
    wallets.grant(bob.account.id, 6_500, "gift 2", expires_at=soon)
    wallets.grant(bob.account.id, 7_000, "gift 3", expires_at=late)
    deliver(job := buy(bob)["id"], picture)
    body = bob.get("/v1/balance").json()
    assert [(lot["kind"], lot["amount"], lot["left"], lot["price"], lot["currency"]) for lot in body["lots"]] == [
        ("granted", "5", "3.75", None, None),
        ("granted", "6.5", "6.5", None, None),
        ("granted", "7", "7", None, None),
        ("paid", "100", "100", "9.90", "eur"),
    ]
    ((expiring),) = body["expiring_soon"]
    assert expiring == {"expires_at": body["lots"][0]["expires_at"], "amount": "10.25"}
    assert datetime.fromisoformat(expiring["expires_at"]) == soon.replace(microsecond=soon.microsecond // 1000 * 1000)
    assert (body["lots"][3]["expires_at"], body["frozen"], body["debts"]) == (None, False, [])
    lots.expire()
    kinds = {row["kind"]: row["job"] for row in bob.get("/v1/transfers").json()["data"]}
    assert kinds == {"capture": job, "grant": None, "purchase": None}


def test_expired_tokens_are_neither_shown_nor_spent_although_nobody_swept(bob):
    wallets.grant(bob.account.id, 5_000, "gift", expires_at=timezone.now() + timedelta(days=7))
    lapse()
    body = bob.get("/v1/balance").json()
    assert [body[name] for name in ("available", "total", "lots", "expiring_soon")] == ["0", "0", [], []]
    assert error(bob.post("/v1/jobs", ORDER), 402)["message"] == f"This costs {COST} Tokens and 0 are available."
    assert [row["amount"] for row in bob.get("/v1/transfers").json()["data"]] == ["-5", "5"]


def test_the_first_order_after_an_expiry_is_paid_with_what_is_left(bob):
    """Nobody has looked at the balance, and nobody has swept."""
    wallets.grant(bob.account.id, 5_000, "gift", expires_at=timezone.now() + timedelta(days=7))
    wallets.grant(bob.account.id, 1_250, "good")
    lapse()
    assert bob.post("/v1/jobs", ORDER).status_code == 202
    assert bob.balance == (0, 1_250)
    assert error(bob.post("/v1/jobs", ORDER), 402)["code"] == "insufficient_tokens"


def test_what_was_held_at_its_expiry_is_gone_once_the_job_is_canceled(bob):
    wallets.grant(bob.account.id, 5_000, "gift", expires_at=timezone.now() + timedelta(days=7))
    job = bob.post("/v1/jobs", ORDER | {"n": 4}).json()["id"]
    lapse()
    body = bob.get("/v1/balance").json()
    assert (body["available"], body["held"], body["expiring_soon"]) == ("0", "5", [])
    bob.post(f"/v1/jobs/{job}/cancel")
    assert error(bob.post("/v1/jobs", ORDER), 402)["code"] == "insufficient_tokens"
    assert bob.get("/v1/balance").json()["total"] == "0"


def test_a_job_that_is_canceled_pays_what_its_account_owes(bob, picture):
    first, _ = (wallets.purchase(bob.account.id, 1_250, 100, "eur", f"payment {number}") for number in range(2))
    deliver(buy(bob)["id"], picture)
    job = buy(bob)["id"]
    debts.claw_back(first, 100, "dispute", "dp_1")
    assert bob.get("/v1/balance").json()["frozen"] is True
    bob.post(f"/v1/jobs/{job}/cancel")
    body = bob.get("/v1/balance").json()
    assert (body["frozen"], body["debts"], body["total"]) == (False, [], "0")


def test_a_debt_is_stated_on_the_balance(bob, picture):
    lot = wallets.purchase(bob.account.id, 100_000, 990, "eur", "payment 1")
    deliver(buy(bob)["id"], picture)
    debt = debts.claw_back(lot, 990, "dispute", "dp_1")
    body = bob.get("/v1/balance").json()
    assert (body["total"], body["lots"], body["frozen"]) == ("0", [], True)
    (stated,) = body["debts"]
    assert stated.keys() == DebtBody().fields.keys()
    assert [stated[name] for name in ("id", "owed", "price", "currency", "reason")] == [
        str(debt.id), COST, "0.12", "eur", "dispute",
    ]  # fmt: skip
    clawed = bob.get("/v1/transfers").json()["data"][0]
    assert (clawed["kind"], clawed["amount"], clawed["job"]) == ("clawback", "-98.75", None)
