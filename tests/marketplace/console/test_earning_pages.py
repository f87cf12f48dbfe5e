"""The operator's pages of makers, their earnings and payouts, and the account that pays for granted Tokens."""

from datetime import timedelta
from uuid import uuid4

import pytest
from django.urls import reverse

from billing.models import Earning, Funding, Marketing, Payee, Payout, Purse
from billing.tokens import earnings, lots, marketing, proof, wallets
from lora import listings, makers
from marketplace.accounts.models import Person
from marketplace.approvals.models import Request
from marketplace.audit.models import Record
from marketplace.identifiers import uuid7
from marketplace.jobs.models import Job
from tests.marketplace.api.asking import buy, deliver
from tests.marketplace.api.test_market import ready
from tests.marketplace.console.operators import browser, queries, staff, text
from tests.marketplace.people import customer
from tests.marketplace.trainings import making

pytestmark = pytest.mark.django_db
SENT = {"_form_submitted": "on"}


@pytest.fixture
def carol(alice):
    made = customer("carol", 0)
    makers.ensure(made.account.id)
    makers.choose_handle(made.account.id, "carol")
    return made


@pytest.fixture
def glaze(carol):
    adapter = making.adapter(carol)
    listings.publish(ready(adapter), fee=250, share=700, licence="any-use")
    return adapter


@pytest.fixture
def uses(bob, glaze, picture):
    """Two pictures for which bob paid with Tokens that he had bought, and their jobs."""
    wallets.purchase(bob.account.id, 10_000, 5_000, "eur", "pi_1")
    return [_use(bob, glaze, picture) for _ in range(2)]


def _use(customer, adapter, picture):
    job = buy(customer, adapters=[{"id": str(adapter.id)}])
    deliver(job["id"], picture)
    lots.catch_up()
    return job


def page(client, kind, row):
    return text(client, f"{kind}/{row.pk}/change/")


def test_a_maker_is_shown_in_sum(operator, carol, uses, settings):
    settings.EARNINGS_DAYS = 0
    wallets.refund(uses[0]["id"], 500, "half")
    lots.catch_up()
    shown = page(operator, "lora/maker", makers.ensure(carol.account.id))
    (purse,) = earnings.purses(earnings.maker_of(carol.account.id))
    for wanted in ("Earned", "Debt", "EUR", f"{purse.matured_minor / 100:.2f} EUR", "not asked for"):
        assert wanted in shown, wanted
    assert ">carol<" in text(operator, "lora/maker/?q=carol@example.com")
    assert "Nothing found" in text(operator, "lora/maker/?q=bob@example.com")


def test_an_earning_names_the_capture_the_adapter_and_when_it_matures(operator, carol, glaze, uses, settings):
    settings.EARNINGS_DAYS = 30
    first, _ = Earning.objects.order_by("id")
    shown = page(operator, "billing/earning", first)
    for wanted in (
        "carol/glaze version 1",
        f"Transfer {first.transfer_id}",
        uses[0]["id"],
        f"{first.money_minor / 100}",
    ):
        assert wanted in shown, wanted
    matures = first.created_at + timedelta(days=30)
    assert f"{matures:%Y-%m-%d}" in shown or matures.strftime("%B") in shown


@pytest.mark.parametrize("term", ["carol", "carol@example.com", "{account}", "carol/glaze", "{job}"])
def test_earnings_are_found_by_maker_adapter_and_job(operator, bob, carol, glaze, uses, picture, term):
    other = making.adapter(carol, "slip")
    listings.publish(ready(other), fee=250, share=700, licence="any-use")
    _use(bob, other, picture)
    found = text(operator, f"billing/earning/?q={term.format(account=carol.account.id, job=uses[0]['id'])}")
    ids = list(Earning.objects.order_by("id").values_list("id", flat=True))
    shown = [f"Earning {each}<" in found or f">Earning {each}" in found for each in ids]
    wanted = {"carol/glaze": [True, True, False], "{job}": [True, False, False]}.get(term, [True] * 3)
    assert shown == wanted
    assert "Nothing found" in text(operator, "billing/earning/?q=carol/other")
    assert "Nothing found" in text(operator, "billing/earning/?q=bob@example.com")


def test_earnings_are_filtered_by_month_and_a_page_asks_as_much_for_many(operator, bob, glaze, uses, picture):
    month = f"{Earning.objects.first().created_at:%Y-%m}"
    text(operator, f"billing/earning/?month={month}")
    few = queries(operator, f"billing/earning/?month={month}")
    _use(bob, glaze, picture)
    many = queries(operator, f"billing/earning/?month={month}")
    assert len(many) == len(few) <= 8
    assert "carol/glaze" in text(operator, f"billing/earning/?month={month}&q=carol/glaze")
    assert "Nothing found" in text(operator, "billing/earning/?month=2025-01")


@pytest.mark.parametrize(
    "kind", ["billing/earning", "billing/payout", "billing/payee", "billing/marketing", "lora/maker"]
)
def test_an_empty_list_says_what_will_be_there_and_is_not_for_everybody(operator, kind):
    assert "kiln-muted max-w-xl" in text(operator, f"{kind}/")
    assert staff("view_job").get(f"/admin/{kind}/").status_code == 403


@pytest.fixture
def waiting(carol, uses):
    """A payout that waits for the platform's balance."""
    Payee.objects.create(owner=carol.account.id, country="de", email="c@x.de", account_id="acct_1", status="active")
    purse = Purse.objects.create(maker_id=earnings.maker_of(carol.account.id), currency="eur")
    return Payout.objects.create(
        id=uuid4(), purse=purse, account_id="acct_1", amount=100, money_minor=1_234, failure="balance_insufficient",
        idempotency_key="k", due_at="2099-01-01T00:00:00Z",
    )  # fmt: skip


def test_a_payout_that_waits_says_why_and_can_be_hurried(operator, carol, waiting):
    shown = page(operator, "billing/payout", waiting)
    for wanted in ("12.34 EUR", "balance_insufficient", "Ask Stripe again", "acct_1"):
        assert wanted in shown, wanted
    address = reverse("admin:billing_payout_ask_again", args=[waiting.pk])
    assert staff("view_payout").post(address, SENT).status_code == 403
    waiting.refresh_from_db()
    assert waiting.due_at.year == 2099
    operator.post(address, SENT)
    waiting.refresh_from_db()
    assert waiting.due_at.year < 2099
    record = Record.objects.get(act="payout.hurried")
    assert (record.object, "operator@example.com" in record.actor) == (f"payout {waiting.pk}", True)
    assert str(waiting.pk) in text(operator, "billing/payout/?q=carol@example.com&status=ordered")
    assert str(waiting.pk) in text(operator, "billing/payout/?q=acct_1")


def test_a_payout_that_was_answered_offers_nothing(operator, waiting):
    Payout.objects.update(status="paid", transfer_id="tr_9", failure="", done_at="2026-11-01T00:00:00Z")
    before = Payout.objects.get().due_at
    assert "ask_again" not in page(operator, "billing/payout", waiting)
    assert "tr_9" in text(operator, "billing/payout/?q=tr_9")
    operator.post(reverse("admin:billing_payout_ask_again", args=[waiting.pk]), SENT)
    assert Payout.objects.get().due_at == before
    assert not Record.objects.filter(act="payout.hurried").exists()


@pytest.mark.django_db(transaction=True)
def test_a_payee_is_asked_for_at_stripe(operator, shop):
    bob = shop.customer
    assert bob.post("/v1/payouts/account", {"country": "de"}).status_code == 200
    payee = Payee.objects.get()
    assert "not asked yet" in page(operator, "billing/payee", payee)
    address = reverse("admin:billing_payee_ask_again", args=[payee.pk])
    assert staff("view_payee").post(address, SENT).status_code == 403
    assert Payee.objects.get().asked_at is None
    operator.post(address, SENT)
    shown = page(operator, "billing/payee", payee)
    for wanted in ("restricted", "identity.individual.date_of_birth, from the user", payee.account_id):
        assert wanted in shown, wanted
    assert "3 things" in text(operator, f"billing/payee/?q={payee.account_id}")
    assert Record.objects.get(act="payee.asked").details == {"status": "onboarding"}
    shop.fault("error", "GET /v2/core/accounts*", count=9)
    operator.post(address, SENT)
    assert Record.objects.filter(act="payee.asked").count() == 1


# --- the marketing account ---


FUNDING = {**SENT, "currency": "eur", "amount": "100", "price": "0.50", "reason": "autumn"}


def ask(client, **changes):
    return client.post(reverse("admin:billing_marketing_fund"), FUNDING | {"request_id": uuid7()} | changes)


@pytest.mark.django_db(transaction=True)
def test_money_for_makers_takes_a_second_person(operator):
    ask(operator)
    asked = Request.objects.get()
    assert (asked.status, Marketing.objects.count(), Funding.objects.count()) == ("pending", 0, 0)
    approve = reverse("admin:approvals_request_approve", args=[asked.id])
    operator.post(approve, SENT)
    assert Marketing.objects.count() == 0, "nobody approves what they asked for"
    second = browser(Person.objects.create_superuser("second@example.com"))
    for _ in range(2):
        second.post(approve, SENT)
    account = Marketing.objects.get()
    assert (account.funded_minor, account.price_minor, account.is_open) == (10_000, 50, True)
    record = Record.objects.get(act="marketing.funded")
    assert (record.details["amount_minor"], "second@example.com" in record.actor) == (10_000, True)
    shown = page(operator, "billing/marketing", account)
    for wanted in ("100.00", "0.50 EUR", "Who asked and approved", str(asked.id)):
        assert wanted in shown, wanted
    assert proof.check() == []


@pytest.mark.parametrize(
    "changes",
    [{"amount": "-100.01"}, {"amount": "0"}, {"price": "0"}, {"amount": "1.001"}, {"currency": "zzz"}, {"reason": ""}],
)
def test_a_funding_that_cannot_be_is_not_asked_for(operator, changes):
    marketing.fund("eur", 5, 10_000, "first")
    assert ask(operator, **changes).status_code in (200, 422)
    assert not Request.objects.exists()
    assert Funding.objects.count() == 1


def test_what_was_used_meanwhile_is_not_taken_out(operator):
    marketing.fund("eur", 5, 10_000, "first")
    ask(operator, amount="-100")
    Marketing.objects.update(used_minor=1)
    second = browser(Person.objects.create_superuser("second@example.com"))
    second.post(reverse("admin:approvals_request_approve", args=[Request.objects.get().id]), SENT)
    assert (Request.objects.get().status, Funding.objects.count()) == ("pending", 1)


def test_whoever_may_not_fund_does_not_ask(alice):
    assert ask(staff("view_marketing", "ask_grant")).status_code == 403
    assert not Request.objects.exists()


def test_a_grant_is_worth_what_the_account_pays(operator, bob, glaze, picture):
    marketing.fund("eur", 500_00, 100_000, "first")
    wallets.grant(bob.account.id, 2_000, "gift")
    _use(bob, glaze, picture)
    maker = makers.ensure(glaze.owner_id)
    assert "without worth" in page(operator, "lora/maker", maker)
    assert "not decided yet" in text(operator, "billing/earning/")
    marketing.weigh()
    assert "EUR" in page(operator, "lora/maker", maker)
    assert Job.objects.count() == 1
    assert Marketing.objects.get().used_minor > 0
    assert "Paid to makers" in page(operator, "billing/marketing", Marketing.objects.get())
