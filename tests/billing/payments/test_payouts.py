"""Payouts, beside the double of Stripe: each is found there once, and what Stripe did not pay is the maker's again."""

from uuid import UUID, uuid4

import pytest

from billing import errors
from billing.models import Notice, Payee, Payout
from billing.payments import events, payees, payouts
from billing.payments.stripe import Stripe
from billing.tokens import earnings, exchanges, lots, proof, wallets
from tests.billing.books import refused
from tests.billing.payments.double import Double
from tests.billing.tokens.test_earnings import charge, wallet

pytestmark = pytest.mark.django_db

CHANGED = "v2.core.account[configuration.recipient].capability_status_updated"
PAGES = ("https://kiln.example/again", "https://kiln.example/earnings")


class Bank:
    """The double with money of the platform's in it, and Kiln's own way to it."""

    def __init__(self) -> None:
        self.double = Double()
        self.stripe = Stripe(self.double.client)

    def fund(self, amount: int) -> None:
        order = {
            "amount": amount, "currency": "eur", "payment_method": "pm_card_bypassPending", "confirm": True,
            "automatic_payment_methods": {"enabled": True, "allow_redirects": "never"},
        }  # fmt: skip
        self.double.client.v1.payment_intents.create(order)

    def fault(self, kind: str, match: str = "POST /v1/transfers", count: int = 1) -> None:
        self.double.control("faults", kind=kind, match=match, count=count)

    def transfers(self) -> list[dict]:
        return self.double.every("transfer")

    def tell(self) -> None:
        """Bring Kiln what Stripe has to say."""
        for event in [*self.double.news(), *self.double.every("v2.core.event")]:
            events.apply(event)
        payees.follow(self.stripe)


@pytest.fixture
def bank():
    made = Bank()
    made.fund(100_000)
    yield made
    made.double.close()


@pytest.fixture(autouse=True)
def terms(settings):
    settings.EARNINGS_DAYS = 0
    settings.PAYOUT_MINIMUMS = {"eur": 1_000}
    yield
    assert proof.check() == []


@pytest.fixture
def maker(bank, carol) -> UUID:
    """Carol, whom Stripe pays, and who also is a customer."""
    wallets.create(carol)
    _, page = payees.onboard(bank.stripe, carol, "de", "carol@example.com", PAGES)
    bank.double.visit(page, agreed="yes")
    bank.tell()
    assert Payee.objects.get().status == "active"
    return carol


@pytest.fixture
def job(bob, maker) -> UUID:
    """A job of which the maker earned 4,000 milli-Tokens, worth 20.00 EUR."""
    wallets.purchase(bob, 10_000, 5_000, "eur", "pi_1")
    made = charge(bob, (maker, 4_000), ("platform", 4_000))
    lots.catch_up()
    return made


def left(maker: UUID) -> tuple[int, int, int]:
    (found,) = earnings.purses(earnings.maker_of(maker))
    return found.amount, found.money_minor, found.advanced


def order(maker: UUID, key: str = "now") -> Payout:
    return payouts.order(maker, "eur", uuid4(), key)[0]


def told(maker: UUID) -> list[tuple[str, dict]]:
    """What the maker is to be told."""
    return list(Notice.objects.filter(owner=maker).order_by("id").values_list("kind", "data"))


def due() -> None:
    Payout.objects.filter(status="ordered").update(due_at="2026-01-01T00:00:00Z")


def test_what_has_matured_is_paid_out_once(bank, maker, job):
    payout = order(maker)
    assert (payout.status, payout.money_minor, left(maker)) == ("ordered", 2_000, (0, 0, 0))
    again, replayed = payouts.order(maker, "eur", uuid4(), "now")
    assert (again.id, replayed) == (payout.id, True)
    assert payouts.carry_out(bank.stripe) == 1
    assert payouts.carry_out(bank.stripe) == 0
    payout.refresh_from_db()
    (transfer,) = bank.transfers()
    assert (payout.status, payout.transfer_id, transfer["amount"]) == ("paid", transfer["id"], 2_000)
    assert wallet(maker) == 0
    assert told(maker) == [("payout.paid", {"payout": str(payout.id), "amount": "20.00", "currency": "eur"})]


@pytest.mark.parametrize("fault", ["error", "drop", "timeout_after", "drop_after", "error_after", "rate_limit"])
def test_an_answer_that_is_lost_is_asked_for_again(bank, maker, job, fault):
    payout = order(maker)
    bank.fault(fault)
    assert payouts.carry_out(bank.stripe) == 0
    due()
    bank.double.advance(2 * 86_400)  # Stripe has forgotten the key
    assert payouts.carry_out(bank.stripe) == 1
    payout.refresh_from_db()
    assert [each["id"] for each in bank.transfers()] == [payout.transfer_id]


def test_a_payout_waits_until_the_platforms_balance_suffices(bank, maker, job):
    payout = order(maker)
    spent = {"amount": 96_000, "currency": "eur", "destination": payout.account_id}
    bank.double.client.v1.transfers.create(spent)
    assert payouts.carry_out(bank.stripe) == 0
    payout.refresh_from_db()
    assert (payout.status, payout.failure) == ("ordered", "balance_insufficient")
    bank.fund(10_000)
    due()
    assert payouts.carry_out(bank.stripe) == 1
    payout.refresh_from_db()
    assert (payout.status, payout.failure) == ("paid", "")


def test_a_payout_that_waits_can_be_hurried_and_one_that_was_answered_not(bank, maker, job):
    payout = order(maker)
    bank.fault("error")
    assert payouts.carry_out(bank.stripe) == 0
    assert payouts.carry_out(bank.stripe) == 0, "the pause is not over"
    assert payouts.hurry(payout.id)
    assert payouts.carry_out(bank.stripe) == 1
    assert not payouts.hurry(payout.id)
    assert payouts.carry_out(bank.stripe) == 0
    assert len(bank.transfers()) == 1


def test_what_stripe_still_wants_of_a_payee_is_kept(bank, carol):
    payee, page = payees.onboard(bank.stripe, carol, "de", "carol@example.com", PAGES)
    payees.ask(bank.stripe, payee)
    assert (payee.status, payee.capability) == ("onboarding", "restricted")
    assert payee.missing == [
        "requirements_past_due (provide_info)",
        "identity.individual.date_of_birth, from the user",
        "configuration.recipient.default_outbound_destination, from the user",
    ]
    bank.double.visit(page, agreed="yes")
    bank.tell()
    payee.refresh_from_db()
    assert (payee.status, payee.capability, payee.missing) == ("active", "active", [])


def test_a_payee_whom_stripe_does_not_pay_any_more_gets_it_back(bank, maker, job):
    payout = order(maker)
    bank.double.control(f"accounts/{payout.account_id}", recipient="restricted")
    assert payouts.carry_out(bank.stripe) == 1
    payout.refresh_from_db()
    assert (payout.status, payout.failure) == ("failed", "insufficient_capabilities_for_transfer")
    assert (left(maker), wallet(maker)) == ((4_000, 2_000, 0), 4_000)
    assert Payee.objects.get().status == "inactive"
    assert [(kind, data["failure"]) for kind, data in told(maker)] == [
        ("payout.failed", "insufficient_capabilities_for_transfer")
    ]
    refused(errors.NotAPayee, payouts.order, maker, "eur", uuid4(), "later")
    bank.double.control(f"accounts/{payout.account_id}", recipient="active")
    bank.tell()
    assert order(maker, "later").status == "ordered"


@pytest.mark.parametrize("lost", [False, True])
def test_a_transfer_that_is_reversed_is_the_makers_again_in_part_or_whole(bank, maker, job, lost):
    payout = order(maker)
    if lost:
        bank.fault("drop_after")
    payouts.carry_out(bank.stripe)
    transfer = bank.transfers()[0]["id"]
    bank.double.client.v1.transfers.reversals.create(transfer, {"amount": 500})
    bank.tell()
    payout.refresh_from_db()
    assert (payout.status, payout.back, left(maker)) == ("paid", 1_000, (1_000, 500, 0))
    bank.double.client.v1.transfers.reversals.create(transfer)
    bank.tell()
    bank.tell()
    payout.refresh_from_db()
    assert (payout.status, left(maker), wallet(maker)) == ("reversed", (4_000, 2_000, 0), 4_000)
    assert [(kind, data.get("returned")) for kind, data in told(maker)] == [
        ("payout.paid", None), ("payout.reversed", "5.00"), ("payout.reversed", "20.00"),
    ]  # fmt: skip


def test_what_is_refunded_after_it_was_paid_out_is_a_debt_which_a_reversal_pays(bank, maker, job):
    payout = order(maker)
    payouts.carry_out(bank.stripe)
    wallets.refund(job, 8_000, "sorry")
    assert (left(maker), wallet(maker)) == ((-4_000, -2_000, 4_000), 0)
    refused(errors.PayoutBelowMinimum, payouts.order, maker, "eur", uuid4(), "more")
    bank.double.client.v1.transfers.reversals.create(bank.transfers()[0]["id"])
    bank.tell()
    payout.refresh_from_db()
    assert (payout.status, left(maker), wallet(maker)) == ("reversed", (0, 0, 0), 0)


def test_less_than_the_minimum_or_another_currency_is_not_paid_out(bank, maker, job, settings):
    settings.PAYOUT_MINIMUMS = {"eur": 2_001, "usd": 1}
    refused(errors.PayoutBelowMinimum, payouts.order, maker, "eur", uuid4(), "now")
    refused(errors.PayoutBelowMinimum, payouts.order, maker, "usd", uuid4(), "now")
    refused(errors.UnknownCurrency, payouts.order, maker, "jpy", uuid4(), "now")
    assert bank.transfers() == []
    exchanges.make(maker, None, "as Tokens")
    assert wallets.balance(maker).total == 4_000


def test_a_month_pays_out_once_what_reaches_the_minimum(bank, maker, job, bob):
    assert payouts.order_monthly(uuid4) == 1
    wallets.purchase(bob, 10_000, 5_000, "eur", "pi_2")
    charge(bob, (maker, 4_000), ("platform", 4_000))
    lots.catch_up()
    assert payouts.order_monthly(uuid4) == 0
    assert Payout.objects.get().money_minor == 2_000


def test_makers_elsewhere_are_told_and_nothing_is_asked_of_stripe(bank, carol):
    with pytest.raises(errors.CountryNotPaid):
        payees.onboard(bank.stripe, carol, "br", "carol@example.com", PAGES)
    assert (bank.double.every("account"), Payee.objects.count()) == ([], 0)


def test_a_payee_whose_account_was_closed_at_stripe_fails_a_payout_and_begins_anew(bank, maker, job):
    old = Payee.objects.get().account_id
    bank.double.control(f"accounts/{old}", closed=True)
    payout = order(maker)
    payouts.carry_out(bank.stripe)
    payout.refresh_from_db()
    assert (payout.status, left(maker), bank.transfers()) == ("failed", (4_000, 2_000, 0), [])
    payees.follow(bank.stripe)
    refused(errors.NotAPayee, payouts.order, maker, "eur", uuid4(), "again")
    payee, page = payees.onboard(bank.stripe, maker, "at", "carol@example.com", PAGES)
    assert (payee.status, payee.country) == ("onboarding", "at")
    assert payee.account_id not in ("", old)
    bank.double.visit(page)
    bank.tell()
    payouts.order(maker, "eur", uuid4(), "anew")
    payouts.carry_out(bank.stripe)
    assert [(each["destination"], each["amount"]) for each in bank.transfers()] == [(payee.account_id, 2_000)]


def test_one_whose_account_was_closed_before_it_was_paid_begins_anew_and_holds_up_nobody(bank, carol):
    others = uuid4()
    for owner in (carol, others):
        payees.onboard(bank.stripe, owner, "de", "someone@example.com", PAGES)
    Payee.objects.update(news="asked")
    bank.double.control(f"accounts/{Payee.objects.get(owner=carol).account_id}", closed=True)
    payees.follow(bank.stripe)
    assert not Payee.objects.exclude(news="").exists()
    assert [each.account_id != "" for each in (Payee.objects.get(owner=carol), Payee.objects.get(owner=others))] == [
        False, True,
    ]  # fmt: skip
    bank.double.control(f"accounts/{Payee.objects.get(owner=others).account_id}", closed=True)
    payee, _ = payees.onboard(bank.stripe, others, "de", "someone@example.com", PAGES)
    assert len(bank.double.every("account")) == 3
    assert payee.account_id


def test_another_country_is_taken_until_stripe_has_an_account(bank, carol):
    bank.fault("drop", "POST /v2/core/accounts")
    with pytest.raises(errors.PaymentsUnavailable):
        payees.onboard(bank.stripe, carol, "de", "carol@example.com", PAGES)
    payee, _ = payees.onboard(bank.stripe, carol, "at", "carol@example.com", PAGES)
    with pytest.raises(errors.CountryKept):
        payees.onboard(bank.stripe, carol, "de", "carol@example.com", PAGES)
    (account,) = bank.double.every("account")
    assert (account["id"], account["country"], Payee.objects.get().country) == (payee.account_id, "AT", "at")


def test_an_onboarding_whose_answer_was_lost_makes_no_second_account(bank, carol):
    bank.fault("drop_after", "POST /v2/core/accounts")
    with pytest.raises(errors.PaymentsUnavailable):
        payees.onboard(bank.stripe, carol, "de", "carol@example.com", PAGES)
    payee, page = payees.onboard(bank.stripe, carol, "de", "carol@example.com", PAGES)
    assert [each["id"] for each in bank.double.every("account")] == [payee.account_id]
    bank.double.visit(page, later="yes")
    bank.tell()
    assert Payee.objects.get().status == "onboarding"
    refused(errors.NotAPayee, payouts.order, carol, "eur", uuid4(), "early")
