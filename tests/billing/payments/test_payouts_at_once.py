"""Payouts and exchanges that are ordered at the same moment, and carried out by several processes."""

from collections import Counter
from uuid import uuid4

import pytest

from billing.models import Payee, Payout
from billing.payments import payees, payouts
from billing.tokens import exchanges, lots, proof, wallets
from tests.billing.payments.test_payouts import PAGES, Bank
from tests.billing.tokens.test_earnings import charge
from tests.threads import together

pytestmark = pytest.mark.django_db(transaction=True)
THREADS = 8


@pytest.fixture
def bank():
    made = Bank()
    made.fund(100_000)
    yield made
    made.double.close()
    assert proof.check() == []


@pytest.fixture
def maker(bank, bob, carol, settings):
    """Carol, whom Stripe pays, with 4,000 milli-Tokens earned, worth 20.00 EUR."""
    settings.EARNINGS_DAYS = 0
    settings.PAYOUT_MINIMUMS = {"eur": 1_000}
    wallets.create(carol)
    _, page = payees.onboard(bank.stripe, carol, "de", "carol@example.com", PAGES)
    bank.double.visit(page, agreed="yes")
    bank.tell()
    assert Payee.objects.get().status == "active"
    wallets.purchase(bob, 10_000, 5_000, "eur", "pi_1")
    charge(bob, (carol, 4_000), ("platform", 4_000))
    lots.catch_up()
    return carol


def outcomes(results):
    return Counter(type(each).__name__ if isinstance(each, Exception) else each for each in results)


def test_orders_at_once_pay_a_purse_out_once(maker, bank):
    ordered = together(THREADS, lambda number: payouts.order(maker, "eur", uuid4(), f"key {number}")[0].money_minor)
    assert outcomes(ordered) == {2_000: 1, "PayoutBelowMinimum": THREADS - 1}
    assert [each["amount"] for each in carried_out(bank)] == [2_000]


def test_one_key_at_once_is_one_payout(maker, bank):
    ordered = together(THREADS, lambda _: payouts.order(maker, "eur", uuid4(), "one key"))
    assert len({payout.id for payout, _ in ordered}) == 1
    assert sorted(replayed for _, replayed in ordered) == [False] + [True] * (THREADS - 1)
    assert len(carried_out(bank)) == 1


def test_what_is_exchanged_is_not_paid_out_too(maker, bank):
    def leave(number):
        if number % 2:
            return payouts.order(maker, "eur", uuid4(), f"key {number}")[0].amount
        made, _ = exchanges.make(maker, None, f"key {number}")
        return -sum(each.amount for each in made)

    found = outcomes(together(THREADS, leave))
    taken = {amount: times for amount, times in found.items() if isinstance(amount, int) and amount}
    assert taken in ({4_000: 1}, {-4_000: 1})
    assert wallets.balance(maker).total == (0 if 4_000 in taken else 4_000)
    assert len(carried_out(bank)) == Payout.objects.count() == (1 if 4_000 in taken else 0)


def carried_out(bank):
    """Have several processes look at once for what is due; return the transfers that Stripe has."""
    assert sum(together(4, lambda _: payouts.carry_out(bank.stripe))) == Payout.objects.count()
    return bank.transfers()
