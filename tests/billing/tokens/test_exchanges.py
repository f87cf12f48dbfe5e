"""Matured earnings become Tokens to spend, with their worth; what is taken back later is a debt of the maker's."""

from datetime import timedelta
from uuid import UUID, uuid4

import pytest

from billing import errors
from billing.models import Exchange, Lot, Wallet
from billing.tokens import debts, earnings, exchanges, lots, marketing, proof, takebacks, wallets
from billing.tokens.earnings import Standing
from tests.billing.books import refused
from tests.billing.payments import clocks
from tests.billing.tokens.test_earnings import charge, wallet

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def mature_at_once(settings):
    settings.EARNINGS_DAYS = 0


@pytest.fixture
def maker(carol) -> UUID:
    """Carol, who also has an empty wallet as a customer."""
    wallets.create(carol)
    return carol


@pytest.fixture
def dave() -> UUID:
    owner = uuid4()
    wallets.create(owner, Wallet.Kind.CREATOR)
    return owner


def purses(maker: UUID) -> dict[str, Standing]:
    return {each.currency: each for each in earnings.purses(earnings.maker_of(maker))}


@pytest.fixture
def earned(bob, maker) -> UUID:
    """A job of which the maker earned 30 granted milli-Tokens and 70, worth 35 cents; the job."""
    wallets.grant(bob, 30, "gift")
    wallets.purchase(bob, 1_000, 500, "eur", "pi_1")
    job = charge(bob, (maker, 100), ("platform", 300))
    lots.catch_up()
    return job


def test_what_has_matured_becomes_lots_that_keep_their_worth(maker, earned):
    made, again = exchanges.make(maker, None, "all")
    assert ([(each.purse.currency, each.amount, each.money_minor) for each in made], again) == (
        [("", 30, 0), ("eur", 70, 35)], False,
    )  # fmt: skip
    assert lots.catch_up() == 1
    found = [(lot.kind, lot.amount, lot.price_minor, lot.currency) for lot in lots.position(maker).lots]
    assert found == [("granted", 30, None, ""), ("paid", 70, 35, "eur")]
    assert (wallet(maker), wallets.balance(maker).total) == (0, 100)
    before = Exchange.objects.count()
    assert [each.id for each in exchanges.make(maker, None, "all")[0]] == [each.id for each in made]
    assert Exchange.objects.count() == before
    refused(errors.IdempotencyMismatch, exchanges.make, maker, 5, "all")
    refused(errors.NothingMatured, exchanges.make, maker, None, "more")


def test_a_part_takes_those_without_worth_first_and_its_part_of_the_money(maker, earned):
    exchanges.make(maker, 47, "part")
    assert (purses(maker)["eur"].amount, purses(maker)["eur"].money_minor) == (53, 27)
    assert purses(maker)[""].amount == 0
    refused(errors.NothingMatured, exchanges.make, maker, 54, "too much")
    exchanges.make(maker, 53, "the rest")
    assert sum(lot.price_minor or 0 for lot in Lot.objects.filter(wallet__owner=maker)) == 35
    assert wallet(maker) == 0


def test_nothing_leaves_before_it_has_matured(maker, earned, settings):
    settings.EARNINGS_DAYS = 1
    refused(errors.NothingMatured, exchanges.make, maker, None, "early")
    assert purses(maker)["eur"].amount == 70


def test_each_earning_matures_on_its_day_and_its_money_with_it(bob, maker, settings):
    settings.EARNINGS_DAYS = 30
    with clocks.movable():
        wallets.purchase(bob, 1_000, 500, "eur", "pi_1")
        for day, shares in ((0, 100), (10, 60)):
            move(timedelta(days=day))
            charge(bob, (maker, shares), ("platform", 40))
        lots.catch_up()
        ready = []
        for day in (30, 40):
            for second in (-30, 1):
                move(timedelta(days=day, seconds=second))
                ready.append((purses(maker)["eur"].ready, purses(maker)["eur"].ready_minor))
        assert ready == [(0, 0), (100, 50), (100, 50), (160, 80)]


def move(ahead: timedelta) -> None:
    clocks.move(ahead, ahead)


def test_money_that_was_exchanged_is_what_the_next_maker_earns(maker, dave, earned):
    exchanges.make(maker, None, "all")
    charge(maker, (dave, 100))
    lots.catch_up()
    marketing.weigh()
    assert {currency: (each.amount, each.money_minor) for currency, each in purses(dave).items()} == {
        "": (30, 0), "eur": (70, 35),
    }  # fmt: skip
    assert proof.check() == []


def test_what_is_taken_back_after_it_left_is_a_debt_paid_first_from_later_earnings(bob, maker, earned):
    exchanges.make(maker, None, "all")
    wallets.refund(earned, 400, "sorry")
    assert wallets.balance(bob).total == 1_030
    assert wallets.balance(maker).total == 100
    standing = purses(maker)["eur"]
    assert (standing.amount, standing.money_minor, standing.advanced, standing.ready) == (-70, -35, 70, 0)
    assert wallet(maker) == 0
    wallets.grant(bob, 10, "another gift")
    charge(bob, (maker, 80), ("platform", 20))  # 40 of the gifts that came back, and 40 that were paid
    lots.catch_up()
    marketing.weigh()
    takebacks.settle([earnings.maker_of(maker)])
    assert {currency: each.advanced for currency, each in purses(maker).items()} == {"": 0, "eur": 30}
    assert wallet(maker) == 10
    charge(bob, (maker, 50), ("platform", 50))
    lots.catch_up()
    made, _ = exchanges.make(maker, None, "again")
    assert [(each.amount, each.money_minor) for each in made] == [(10, 0), (20, 10)]
    assert wallet(maker) == 0


def test_a_dispute_after_an_exchange_is_a_debt_until_it_is_won(bob, maker):
    lot = wallets.purchase(bob, 1_000, 500, "eur", "pi_1")
    charge(bob, (maker, 200), ("platform", 800))
    lots.catch_up()
    exchanges.make(maker, None, "all")
    debt = debts.claw_back(lot, 500, "dispute", "du_1")
    assert (purses(maker)["eur"].amount, purses(maker)["eur"].advanced, wallet(maker)) == (-200, 200, 0)
    debts.void(debt.id, "won")
    assert (purses(maker)["eur"].amount, purses(maker)["eur"].advanced, wallet(maker)) == (0, 0, 0)


def test_exchanged_tokens_pay_the_makers_own_debts_as_a_customer(bob, maker, earned):
    lot = wallets.purchase(maker, 100, 50, "eur", "pi_2")
    charge(maker, ("platform", 100))
    debts.claw_back(lot, 50, "dispute", "du_1")
    exchanges.make(maker, None, "all")
    assert [(lot.kind, lot.remaining) for lot in lots.position(maker).lots] == [("granted", 30)]
    assert debts.of(maker)[0].owed == 30
    assert proof.check() == []
