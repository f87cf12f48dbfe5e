"""Months are closed once: all that belongs to them and nothing else, numbered without gaps, and never changed again."""

import threading
from datetime import timedelta

import pytest
from django.db import IntegrityError, connection, transaction
from django.utils import timezone

from billing.models import Invoice, Lot, Month, Reversal, Transfer
from billing.payments import events, invoices
from billing.tokens import debts, ledger, lots, proof, wallets
from marketplace.accounts import customers
from marketplace.accounts.models import Account
from tests.marketplace.api.money.months import (
    clock,
    close,
    completed,
    invoice_page,
    invoiced,
    known,
    lines,
    order,
    paid,
    text_of,
    went_back,
)
from tests.marketplace.people import customer
from tests.threads import together

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("ledger_is_right")]


# --- which month something belongs to ---


def test_a_payment_its_tokens_and_its_bonus_have_one_time_as_has_what_goes_back(bob):
    top_up = paid(bob)
    moved = Transfer.objects.filter(reference=top_up.id)
    assert set(moved.values_list("kind", "created_at")) == {("purchase", top_up.paid_at), ("grant", top_up.paid_at)}
    reversal = went_back(top_up, 2000)
    since = Reversal.objects.get(id=reversal).since
    taken = Transfer.objects.filter(kind="clawback").values_list("created_at", flat=True)
    assert (set(taken), len(taken)) == ({since}, 2)
    went_back(top_up, 2000, "failed", reversal=reversal)
    until = Reversal.objects.get(id=reversal).until
    assert since < until
    assert Transfer.objects.filter(reference=top_up.id, created_at=until).count() == 2


@pytest.mark.django_db(transaction=True)
def test_times_of_a_wallet_never_go_back_however_long_somebody_waited_for_it(bob):
    wallets.grant(bob.account.id, 1, "first")

    def grant(number):
        wallets.grant(bob.account.id, 1, f"grant {number}")

    with ledger.moment(bob.account.id):
        waiting = threading.Thread(target=together, args=(4, grant))
        waiting.start()
        waiting.join(0.3)
        wallets.grant(bob.account.id, 1, "long in the making")
        after = clock()
    waiting.join()
    times = list(Transfer.objects.order_by("id").values_list("created_at", flat=True))
    assert times == sorted(times)
    assert all(time > after for time in times[2:])


@pytest.mark.django_db(transaction=True)
def test_a_month_waits_for_the_payment_that_was_being_credited_when_it_ended(bob):
    top_up = order(bob)
    credited, commit = threading.Event(), threading.Event()

    def webhook(_):
        with transaction.atomic():
            events.apply(completed(top_up))
            credited.set()
            commit.wait(20)  # a lock, a slow disk, a replica that confirms late

    def closing(_):
        return invoices.close(bob.account.id, known(invoiced(bob, end)))

    crediting = threading.Thread(target=together, args=(1, webhook))
    crediting.start()
    assert credited.wait(20)
    end = clock()
    closed: list = []
    closer = threading.Thread(target=lambda: closed.extend(together(1, closing)))
    closer.start()
    closer.join(0.5)
    assert not Month.objects.exists()
    commit.set()
    crediting.join()
    closer.join()
    assert closed == [True]
    month = Month.objects.get()
    top_up.refresh_from_db()
    assert month.first <= top_up.paid_at < month.end
    assert (month.closing, month.moved) == (44_000_000, {"purchase": 40_000_000, "grant": 4_000_000})
    assert lines(month.invoices.all()) == [("Token pack medium", 2000, 319)]


def test_months_follow_each_other_and_add_up_with_the_ledger(alice):
    wallets.grant(alice.account.id, 5_000, "short", expires_at=timezone.now() + timedelta(seconds=0.05))
    first, _ = close(alice)
    paid(alice)
    while not lots.expire():
        pass
    lot = Lot.objects.get(kind="paid")
    debts.claw_back(lot.id, 1000, "dispute", "dp_1")
    second, _ = close(alice)
    wallets.grant(alice.account.id, 7_000, "later")
    assert (first.opening, first.closing, second.opening) == (0, 1_005_000, 1_005_000)
    assert second.moved == {"purchase": 40_000_000, "grant": 4_000_000, "expiry": -5_000, "clawback": -20_000_000}
    assert (second.first, second.closing) == (first.end, second.opening + sum(second.moved.values()))
    (running, _), *closed = invoices.months(alice.account.id, invoiced(alice, clock() + timedelta(days=9)))
    assert [month for month, _ in closed] == [second, first]
    assert (running.is_final, running.first, running.moved) == (False, second.end, {"grant": 7_000})
    assert running.closing == wallets.balance(alice.account.id).total


def test_a_month_is_not_closed_before_it_ends_and_only_once(bob):
    assert not invoices.close(bob.account.id, known(invoiced(bob, clock() + timedelta(hours=1))))
    who = known(invoiced(bob, clock()))
    assert [invoices.close(bob.account.id, who) for _ in range(3)] == [True, False, False]
    assert Month.objects.count() == 1


def test_a_month_is_closed_by_the_zone_that_the_account_has_then(bob):
    now = clock()
    ends = iter((now, now + timedelta(hours=14)))  # the zone changes just before the month would be closed

    def customers_of(owners):
        return {bob.account.id: invoiced(bob, next(ends))}

    assert invoices.close_due(customers_of) == 0
    assert not Month.objects.exists()


def test_the_task_closes_all_that_is_due_and_not_the_running_month(alice, bob):
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL session_replication_role = replica")
        cursor.execute("UPDATE billing_wallet SET created_at = now() - interval '70 days' WHERE kind = 'customer'")
        cursor.execute("UPDATE billing_transfer SET created_at = now() - interval '70 days'")
        cursor.execute("SET LOCAL session_replication_role = origin")
    assert invoices.close_due(customers.invoiced) in (4, 6)
    assert invoices.close_due(customers.invoiced) == 0
    for someone in (alice, bob):
        closed = Month.objects.filter(owner=someone.account.id)
        assert max(month.end for month in closed) <= timezone.now()
        running, *final = someone.get("/v1/invoices").json()["data"]
        assert (running["final"], running["month"]) == (False, f"{timezone.now():%Y-%m}")
        assert [month["final"] for month in final] == [True] * closed.count()


# --- documents ---


def test_money_that_goes_back_is_on_a_credit_note_that_names_the_invoice_with_its_tax(bob):
    top_up = paid(bob)
    went_back(top_up, 700)
    month, (note, invoice) = close(bob)
    assert (invoice.kind, invoice.name, invoice.total_minor, invoice.tax_minor) == ("invoice", "INV-000001", 2000, 319)
    assert (note.kind, note.name, note.total_minor, note.tax_minor) == ("credit_note", "CN-000001", 700, 111)
    went_back(top_up, 1300)
    _, (later,) = close(bob)
    assert (later.name, later.total_minor, later.tax_minor) == ("CN-000002", 1300, 319 - 111)
    assert [line["invoice"] for document in (note, later) for line in document.lines] == ["INV-000001"] * 2
    assert Invoice.objects.get(id=invoice.id).lines == invoice.lines
    assert list(month.invoices.order_by("kind").values_list("total_minor", flat=True)) == [700, 2000]


def test_money_that_comes_again_is_on_the_invoice_of_that_month(bob):
    top_up = paid(bob)
    dispute = went_back(top_up, 2000, "needs_response", "dispute")
    _, first = close(bob)
    went_back(top_up, 2000, "won", "dispute", dispute)
    _, second = close(bob)
    assert lines(first, "credit_note") == [("Returned (dispute)", 2000, 319)]
    assert lines(second) == [("Received again (dispute)", 2000, 319)]
    assert lines(second, "credit_note") == []


def test_no_more_is_credited_than_was_paid(bob):
    top_up = paid(bob)
    went_back(top_up, 1500)
    went_back(top_up, 2000, "needs_response", "dispute")
    _, documents = close(bob)
    assert lines(documents, "credit_note") == [("Returned (refund)", 1500, 239), ("Returned (dispute)", 500, 80)]


def test_a_refund_that_was_known_before_its_payment_counts_with_it(bob):
    top_up = order(bob)
    went_back(top_up, 500)
    first, documents = close(bob)
    assert (first.moved, documents) == ({}, [])
    events.apply(completed(top_up))
    second, documents = close(bob)
    assert lines(documents) == [("Token pack medium", 2000, 319)]
    assert lines(documents, "credit_note") == [("Returned (refund)", 500, 79)]
    assert second.moved["clawback"] == -11_000_000


def test_a_dispute_in_another_currency_takes_the_whole_payment(bob):
    top_up = paid(bob)
    went_back(top_up, 13, "needs_response", "dispute", currency="kwd")
    assert bob.balance == (0, 0)
    _, documents = close(bob)
    assert lines(documents, "credit_note") == [("Returned (dispute)", 2000, 319)]


def test_each_currency_has_documents_of_its_own(bob):
    for currency, price in (("eur", 2000), ("jpy", 700), ("jpy", 300), ("kwd", 5120)):
        paid(bob, currency=currency, price=price)
    month, documents = close(bob)
    assert [(each.currency, each.total_minor) for each in documents] == [("eur", 2000), ("jpy", 1000), ("kwd", 5120)]
    shown = bob.get("/v1/invoices").json()["data"][1]
    assert [(each["currency"], each["total"]) for each in shown["documents"]] == [
        ("eur", "20.00"), ("jpy", "1000"), ("kwd", "5.120"),
    ]  # fmt: skip
    said = text_of(invoice_page(bob, month))
    for words in ("700 JPY", "1000 JPY", "5.120 KWD", "20.00 EUR"):
        assert words in said
    assert month.name == shown["month"]


@pytest.mark.django_db(transaction=True)
def test_numbers_have_no_gaps_whoever_closes_and_fails_meanwhile(alice):
    people = [customer(f"person{number}", 0) for number in range(8)]
    for someone in people:
        paid(someone)
    end = clock()

    def work(number):
        someone = people[number % 8]
        with transaction.atomic():
            closed = invoices.close(someone.account.id, known(invoiced(someone, end)))
            if number >= 8 and closed:
                raise RuntimeError("no invoice after all")
            return closed

    together(16, work)
    for someone in people:
        invoices.close(someone.account.id, known(invoiced(someone, end)))
    numbers = Invoice.objects.order_by("number").values_list("number", "month__owner")
    assert [number for number, _ in numbers] == list(range(1, 9))
    assert {owner for _, owner in numbers} == {someone.account.id for someone in people}


def test_what_is_final_never_changes(bob, settings):
    settings.SELLER_NAME = "Ofen GmbH"
    went_back(paid(bob), 500)
    month, _ = close(bob)
    url = f"/v1/invoices/{month.name}.pdf"
    (_, before) = bob.get("/v1/invoices").json()["data"]
    draw = invoice_page(bob, month)
    settings.SELLER_NAME = "Somebody Else"
    Account.objects.filter(id=bob.account.id).update(name="Bob II", time_zone="Asia/Tokyo")
    paid(bob)
    assert invoice_page(bob, month) == draw
    assert bob.get("/v1/invoices").json()["data"][1] == before
    assert bob.get(url).status_code == 200
    for change in (
        lambda: Month.objects.update(closing=0), lambda: Month.objects.all()._raw_delete("default"),
        lambda: Invoice.objects.update(total_minor=1), lambda: Invoice.objects.all()._raw_delete("default"),
    ):  # fmt: skip
        with pytest.raises(IntegrityError), transaction.atomic():
            change()


def test_the_proof_finds_a_month_that_says_something_else(bob):
    paid(bob)
    month, _ = close(bob)
    for change, finding in (
        ("UPDATE billing_month SET closing = closing + 1", f"month {month.id}: it says"),
        ('UPDATE billing_month SET "end" = "end" + interval \'1 minute\'', ""),
        ("UPDATE billing_invoice SET number = 2", "invoice: 1 of them, the last has number 2"),
        ("UPDATE billing_invoice SET total_minor = 1", "its lines say 2000"),
        ("UPDATE billing_topup SET price_minor = 1999", "whose invoice does not say so"),
        ("UPDATE billing_month SET last_transfer_id = 0, closing = 0, moved = '{}'", "after that was closed"),
    ):
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("SET LOCAL session_replication_role = replica")
            cursor.execute(change)
            found = "\n".join(proof.check())
            assert finding in found, (change, found)
            transaction.set_rollback(True)
    assert proof.check() == []
