"""The statement and receipts: they say what the ledger says, to whom it belongs and to nobody else."""

import csv
import io
from datetime import timedelta
from itertools import pairwise
from uuid import uuid4

import pytest
from django.db import connection
from django.utils import timezone

from billing.amounts import parse_tokens
from billing.models import Pack, TopUp
from billing.prices.pricing import ImageOutcome
from billing.tokens import debts, ledger, lots, wallets
from marketplace.api.jobs import examples
from marketplace.api.jobs.receipts import ReceiptBody
from marketplace.api.money import files
from marketplace.api.money import views as money
from marketplace.api.money.examples import TRANSFERS
from marketplace.jobs import lifecycle
from marketplace.jobs.lifecycle import Result
from tests.marketplace.people import Customer
from tests.threads import together

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("ledger_is_right")]

ORDER = {"prompt": "a red circle", "width": 256, "height": 256, "steps": 20, "seed": 7}


def milli(text: str) -> int:
    return -parse_tokens(text[1:]) if text.startswith("-") else parse_tokens(text)


def buy(someone, picture, **changes) -> str:
    job_id = someone.post("/v1/jobs", {**ORDER, **changes}).json()["id"]
    claimed = lifecycle.claim(job_id, "w1")
    lifecycle.complete(claimed, [picture(claimed, index) for index in range(claimed.n)], {})
    return job_id


def top_up(someone: Customer) -> TopUp:
    """As Stripe's event leaves it: 40,000 Tokens for 20 euros, with tax, and 4,000 granted."""
    now, pack = timezone.now(), Pack.objects.get(name="medium")
    row = TopUp.objects.create(
        id=uuid4(), owner=someone.account.id, pack=pack, currency="eur", price_minor=2000, order={}, tax_minor=319,
        status="paid", payment_intent=f"pi_{uuid4().hex}", created_at=now, expires_at=now, paid_at=now,
    )  # fmt: skip
    wallets.purchase(someone.account.id, pack.tokens, 2000, "eur", str(row.id), reference=row.id)
    wallets.grant(someone.account.id, pack.bonus, f"bonus {row.id}", "bonus of pack medium", reference=row.id)
    return row


def pages(someone, query="limit=3"):
    found, cursor = [], ""
    while cursor is not None:
        body = someone.get(f"/v1/transfers?{query}{cursor and f'&cursor={cursor}'}").json()
        found += body["data"]
        cursor = body["next_cursor"]
    return found


def statement_of_everything(alice, picture):
    """A bit of each kind of transfer; the top-up."""
    paid = top_up(alice)
    job = buy(alice, picture)
    wallets.refund(job, 250, "half", "a bad edge")
    wallets.grant(alice.account.id, 5_000, "short", expires_at=timezone.now() + timedelta(seconds=0.05))
    lot = lots.position(alice.account.id).lots[-1].id
    while not lots.expire():
        pass
    debts.claw_back(lot, 1000, "dispute", "dp_1")
    return paid, job


# --- the statement ---


def test_each_line_says_the_balance_after_it(alice, picture):
    statement_of_everything(alice, picture)
    found = pages(alice)
    assert {row["kind"] for row in found} >= {"grant", "purchase", "capture", "refund", "expiry", "clawback"}
    running = milli(alice.get("/v1/balance").json()["total"])
    for row in found:
        assert milli(row["balance"]) == running
        running -= milli(row["amount"])
    assert running == 0


def test_pages_fit_together_while_new_transfers_come(alice, picture):
    for _ in range(4):
        buy(alice, picture)
    first = alice.get("/v1/transfers?limit=2").json()
    buy(alice, picture)
    top_up(alice)
    second = alice.get(f"/v1/transfers?limit=2&cursor={first['next_cursor']}").json()
    rows = first["data"] + second["data"]
    for newer, older in pairwise(rows):
        assert milli(older["balance"]) == milli(newer["balance"]) - milli(newer["amount"])
    assert len({row["id"] for row in rows}) == 4


def test_lines_lead_to_their_job_and_their_top_up(alice, picture):
    paid, job = statement_of_everything(alice, picture)
    rows = {(row["kind"], row["memo"]): row for row in pages(alice)}
    for kind, memo in (("capture", ""), ("refund", "a bad edge")):
        assert (rows[kind, memo]["job"], rows[kind, memo]["url"]) == (job, f"/v1/jobs/{job}")
        assert alice.get(rows[kind, memo]["url"]).status_code == 200
    for kind, memo in (("purchase", ""), ("grant", "bonus of pack medium"), ("clawback", "")):
        assert (rows[kind, memo]["topup"], rows[kind, memo]["job"]) == (str(paid.id), None)
        assert alice.get(rows[kind, memo]["url"]).json()["id"] == str(paid.id)
    for kind, memo in (("expiry", ""), ("grant", "")):
        assert (rows[kind, memo]["topup"], rows[kind, memo]["url"]) == (None, None)


def test_a_statement_of_some_kinds_keeps_its_balances(alice, picture):
    statement_of_everything(alice, picture)
    everything = pages(alice)
    some = pages(alice, "limit=1&kind=capture,purchase")
    assert some == [row for row in everything if row["kind"] in {"capture", "purchase"}]
    assert len(some) == 2
    refused = alice.get("/v1/transfers?kind=gift")
    assert (refused.status_code, refused.json()["error"]["param"]) == (422, "kind")


# --- CSV ---


def rows_of(answer):
    assert answer["Content-Type"].startswith("text/csv")
    return list(csv.DictReader(io.StringIO(b"".join(answer.streaming_content).decode())))


@pytest.mark.django_db(transaction=True)
def test_the_csv_is_the_whole_statement(alice, picture, monkeypatch):
    monkeypatch.setattr(money, "CSV_PAGE", 3)
    statement_of_everything(alice, picture)
    found = rows_of(alice.get("/v1/transfers.csv", Accept="text/csv"))
    shown = pages(alice)
    assert [{name: str(value or "") for name, value in row.items()} for row in shown] == found
    assert sum(milli(row["amount"]) for row in found) == alice.balance[0]
    assert [row["kind"] for row in rows_of(alice.get("/v1/transfers.csv?kind=capture"))] == ["capture"]


@pytest.mark.django_db(transaction=True)
def test_the_csv_comes_in_pieces_and_keeps_no_connection_between_them(alice):
    with connection.cursor() as cursor:
        cursor.execute(
            "WITH paid AS (SELECT id FROM billing_wallet WHERE owner = %s), one AS ("
            " INSERT INTO billing_transfer (source_id, target_id, amount, kind, idempotency_key, balance)"
            " SELECT 1, paid.id, 1, 'grant', 'many ' || n, 1000000 + n FROM paid, generate_series(1, 5000) AS n"
            " ORDER BY n RETURNING id, target_id), lot AS (INSERT INTO billing_lot"
            " (wallet_id, transfer_id, kind, amount, remaining) SELECT target_id, id, 'granted', 1, 1 FROM one)"
            " UPDATE billing_wallet SET balance = balance + 5000 WHERE owner = %s",
            [alice.account.id, alice.account.id],
        )
    pieces = []
    for piece in alice.get("/v1/transfers.csv").streaming_content:
        assert connection.connection is None
        pieces.append(piece.count(b"\n"))
    assert pieces == [1, 1000, 1000, 1000, 1000, 1000, 1]


@pytest.mark.parametrize("text", ["=1+1", "+cmd", "-2+3", "@SUM(A1)", "\t=1", "\r=1"])
def test_no_cell_is_a_formula(text):
    assert files.plain(text) == f"'{text}"


def test_numbers_stay_numbers():
    assert [files.plain(value) for value in ("-1.25", "13.417", 7, None, "a-b")] == ["-1.25", "13.417", "7", "", "a-b"]


# --- receipts ---


def test_a_receipt_explains_what_a_job_cost(bob, picture):
    top_up(bob)
    job = bob.post("/v1/jobs", {**ORDER, "n": 3, "service_class": "interactive"}).json()["id"]
    open_one = bob.get(f"/v1/jobs/{job}/receipt").json()
    assert (open_one["hold"]["status"], open_one["hold"]["amount"], open_one["images"]) == ("held", "5.625", [])
    claimed = lifecycle.claim(job, "w1")
    skipping = Result(ImageOutcome(True, 10, 10), picture(claimed, 1).image)
    lifecycle.complete(claimed, [picture(claimed), skipping, Result(ImageOutcome(False, 3))], {})
    wallets.refund(job, 100, "sorry")
    found = bob.get(f"/v1/jobs/{job}/receipt").json()
    assert found["quote"]["factors"]["service_class"] == "1.5"
    assert (found["quote"]["price_list"], found["quote"]["skipped_step"]) == (2, "0.25")
    assert [image["charged"] for image in found["images"]] == ["1.875", "1.172", "0"]
    assert sum(milli(image["charged"]) for image in found["images"]) == milli(found["hold"]["captured"])
    assert found["steps"] == {"ordered": 60, "run": 33, "skipped": 10}
    hold = {name: found["hold"][name] for name in ("status", "amount", "captured", "released", "refunded")}
    assert hold == {
        "status": "captured", "amount": "5.625", "captured": "3.047", "released": "2.578", "refunded": "0.1"
    }  # fmt: skip
    assert [(move["kind"], move["amount"]) for move in found["transfers"]] == [("capture", "-3.047"), ("refund", "0.1")]
    assert [(lot["kind"], lot["amount"], lot["price"]) for lot in found["lots"]] == [("granted", "2.947", None)]
    assert found["cost"] == {}


def test_a_receipt_says_what_paid_tokens_had_cost(bob, picture):
    wallets.purchase(bob.account.id, 2_500, 100, "eur", "cheap")
    found = bob.get(f"/v1/jobs/{buy(bob, picture)}/receipt").json()
    assert found["cost"] == {"eur": "0.50"}
    assert [(lot["kind"], lot["amount"], lot["price"], lot["currency"]) for lot in found["lots"]] == [
        ("paid", "1.25", "0.50", "eur")
    ]


def test_a_canceled_job_has_a_receipt_for_the_steps_done(alice):
    job = alice.post("/v1/jobs", ORDER).json()["id"]
    claimed = lifecycle.claim(job, "w1")
    unfinished = Result(ImageOutcome(delivered=False, steps_run=5))
    lifecycle.stop(claimed, [unfinished], {})
    found = alice.get(f"/v1/jobs/{job}/receipt").json()
    assert [(image["delivered"], image["charged"]) for image in found["images"]] == [(False, "0.312")]
    assert found["hold"]["captured"] == "0.312"


def test_the_receipt_is_as_documented(alice, picture):
    job = alice.post("/v1/jobs", examples.ORDER).json()["id"]
    claimed = lifecycle.claim(job, "w1")
    lifecycle.complete(claimed, [picture(claimed)], {})
    found = alice.get(f"/v1/jobs/{job}/receipt").json()
    assert found.keys() == ReceiptBody().fields.keys() == examples.RECEIPT.keys()
    for name in ("quote", "images", "steps", "cost"):
        assert found[name] == examples.RECEIPT[name]
    shown = alice.get("/v1/transfers").json()["data"][0]
    assert all(shown.keys() == row.keys() for row in TRANSFERS["data"])


# --- tenants ---


@pytest.mark.django_db(transaction=True)
def test_nobody_sees_anothers_statement_receipts_or_invoices(alice, bob, picture, client):
    paid = top_up(alice)
    job = buy(alice, picture)
    assert bob.get(f"/v1/jobs/{job}/receipt").status_code == 404
    assert bob.get(f"/v1/jobs/{uuid4()}/receipt").status_code == 404
    assert pages(bob) == []
    assert rows_of(bob.get("/v1/transfers.csv")) == []
    month = bob.get("/v1/invoices").json()["data"][0]["month"]
    assert bob.get("/v1/invoices").json()["data"][0]["documents"] == []
    assert bob.get(f"/v1/invoices/{month}.pdf").content != alice.get(f"/v1/invoices/{month}.pdf").content
    assert bob.get("/v1/balance").json()["account"]["month"]["spent"] == "0"
    for path in ("/v1/transfers.csv", "/v1/invoices", f"/v1/invoices/{month}.pdf", f"/v1/jobs/{job}/receipt"):
        assert client.get(path).status_code == 401, path
    assert bob.get(f"/v1/topups/{paid.id}").status_code == 404


@pytest.mark.django_db(transaction=True)
def test_running_balances_hold_while_many_things_happen_at_once(alice, picture):
    """Purchases, charges, refunds and readers at the same time; each page that was read is right by itself."""
    top_up(alice)

    def work(number):
        if number % 4 == 3:
            rows = pages(alice, "limit=5")
            for newer, older in pairwise(rows):
                assert milli(older["balance"]) == milli(newer["balance"]) - milli(newer["amount"])
            return True
        job = buy(alice, picture, n=1 + number % 2)
        return wallets.refund(job, 100, f"refund {number}") if number % 4 else True

    assert together(12, work) == [True] * 12
    running = wallets.balance(alice.account.id).total
    for row in ledger.statement(alice.account.id, limit=100):
        assert row.balance == running
        running -= row.amount
    assert running == 0
