"""Invoices as their customer sees them: the list and the PDF."""

from datetime import UTC, datetime, timedelta

import pytest
from django.utils import timezone

from billing.models import Month
from marketplace.accounts import periods
from marketplace.accounts.models import Account
from tests.marketplace.api.money.months import (
    close,
    invoice_page,
    paid,
    text_of,
    went_back,
)

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("ledger_is_right")]


def test_the_invoice_is_a_pdf_that_says_who_sold_what_to_whom(alice, settings):
    settings.SELLER_NAME, settings.SELLER_ADDRESS = "Ofen & Söhne <GmbH>", "Hauptstraße 1|10115 Berlin"
    settings.SELLER_TAX_ID = "DE123456789"
    Account.objects.filter(id=alice.account.id).update(name="星辰设计工作室 Łódź 😀")
    went_back(paid(alice), 500)
    (running,) = alice.get("/v1/invoices").json()["data"]
    assert [(each["kind"], each["number"], each["total"], each["tax"]) for each in running["documents"]] == [
        ("invoice", None, "20.00", "3.19"), ("credit_note", None, "5.00", "0.79"),
    ]  # fmt: skip
    answer = alice.get(running["url"], Accept="application/pdf")
    assert (answer.status_code, answer["Content-Type"]) == (200, "application/pdf")
    assert f"invoice-{running['month']}" in answer["Content-Disposition"]
    assert answer.content == alice.get(running["url"]).content
    said = text_of(answer.content)
    for words in (
        "Ofen & Söhne <GmbH>", "10115 Berlin", "DE123456789", "星辰设计工作室", "alice@example.com", "20.00 EUR",
        "3.19 EUR", "Credit note", "5.00 EUR", "0.79 EUR", "44000", "not closed", "Taken back",
    ):  # fmt: skip
        assert words in said, (words, said)
    month, _ = close(alice)
    said = text_of(invoice_page(alice, month))
    for words in ("Number: INV-000001", "Number: CN-000001", "of INV-000001", "Issued:", f"{month.first:%Y-%m-%d} to"):
        assert words in said, (words, said)


def test_a_month_without_payments_and_a_page_full_of_them(alice):
    url = alice.get("/v1/invoices").json()["data"][0]["url"]
    assert "Nothing was paid" in text_of(alice.get(url).content)
    for _ in range(60):
        paid(alice)
    said = text_of(alice.get(url).content)
    assert said.count("Token pack medium") == 60
    assert "1200.00 EUR" in said


def test_a_month_ends_in_the_accounts_time_zone(alice):
    alice.patch("/v1/account", {"time_zone": "America/New_York"})
    account = Account.objects.get(id=alice.account.id)
    (running,) = alice.get("/v1/invoices").json()["data"]
    assert running["time_zone"] == "America/New_York"
    assert running["ends_at"] == periods.month(account, timezone.now()).end.strftime("%Y-%m-%dT%H:%M:%S.000Z")
    assert running["ends_at"][11:13] in ("04", "05")
    moment = datetime(2026, 12, 1, 3, tzinfo=UTC)
    assert Month(first=moment - timedelta(days=30), end=moment, zone="America/New_York").name == "2026-11"


@pytest.mark.parametrize("month", ["1999-01", "2999-12", "2026-13", "2026-1", "x"])
def test_there_is_no_invoice_of_other_months(alice, month):
    assert alice.get(f"/v1/invoices/{month}.pdf").status_code == 404
