"""A maker who is a customer, too: earns, spends what was earned, is paid out, and has it taken back, beside a model.

The model follows every milli-Token and cent from its lot to the maker by the letter; payouts are those at Stripe.
"""

from collections import Counter
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.db.models import Sum
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, multiple, rule, run_state_machine_as_test

from billing import errors
from billing.models import Lot, Payee, Payout, Purse
from billing.payments import events, payees, payouts
from billing.payments.stripe import Stripe
from billing.tokens import debts, earnings, exchanges, lots, marketing, takebacks
from tests.billing.books import HOUR, refused
from tests.billing.payments.double import Double
from tests.billing.tokens import naive
from tests.billing.tokens.books_beside import OWNERS, Books, keys, owners

currencies = st.sampled_from(["eur", "usd"])
parts = st.lists(st.integers(1, 9), max_size=3)
prices = st.integers(2, 40)
FAULTS = ["", "", "error", "drop", "drop_after", "error_after"]
faults = st.sampled_from(FAULTS)


class MakerStories(Books):
    """Books whose first customer is also the maker, with Stripe's double beside."""

    creator = OWNERS[0]

    def __init__(self) -> None:
        super().__init__()
        self.double = Double()
        self.stripe = Stripe(self.double.client)
        for currency in ("eur", "usd"):
            self.double.client.v1.payment_intents.create({
                "amount": 100_000, "currency": currency, "payment_method": "pm_card_bypassPending", "confirm": True,
                "automatic_payment_methods": {"enabled": True, "allow_redirects": "never"},
            })  # fmt: skip
        pages = ("https://kiln.example/", "https://kiln.example/")
        payee, page = payees.onboard(self.stripe, self.creator, "de", "carol@example.com", pages)
        self.double.visit(page, agreed="yes")
        payees.ask(self.stripe, payee)
        self.left: Counter[str] = Counter()
        """milli-Tokens by the currency of the purse that they left."""
        self.left_minor: Counter[str] = Counter()
        self.exchanged: dict[str, list[Any]] = {}
        self.paid_out: dict[UUID, tuple[str, int, int]] = {}
        self.refused: set[UUID] = set()
        self.double.news()

    def teardown(self) -> None:
        self.double.close()
        super().teardown()

    def purses(self) -> dict[str, tuple[int, int]]:
        """What the model says is in each purse: all that was drawn for the maker, less what is away or has left."""
        amount, money = Counter[str](), Counter[str]()
        amount.subtract(self.left)
        money.subtract(self.left_minor)
        away = self.away()
        for owner in OWNERS:
            for (job, whom), drawn in self.lots_of(owner).jobs.items():
                for lot, each in drawn.items() if whom == "creator" else ():
                    kept, cents = each.net[2:]
                    gone = away.get((job, lot), 0)
                    amount[each.lot.currency] += kept - gone
                    money[each.lot.currency] += cents - (cents * gone // kept if kept else 0)
        return {currency: (amount[currency], money[currency]) for currency in {*amount, *money}}

    def follow(self) -> dict[str, tuple[int, int]]:
        """Have everything follow that runs behind; return the purses, which are now the model's."""
        lots.catch_up()
        marketing.weigh()
        maker_id = earnings.maker_of(self.creator)
        takebacks.recover()
        found = {each.currency: each for each in earnings.purses(maker_id)}
        expected = self.purses()
        assert {currency: (each.amount, each.money_minor) for currency, each in found.items()} == {
            currency: expected.get(currency, (0, 0)) for currency in found
        }
        assert all(expected[currency] == (0, 0) for currency in expected.keys() - found.keys())
        assert all(each.advanced == max(0, -each.amount) for each in found.values())
        return expected

    @rule(target=Books.charged, owner=owners, currency=currencies, price=st.integers(2, 9))
    def earn(self, owner: UUID, currency: str, price: int) -> Any:
        """Tokens are bought and all that there are spent; the maker earns most of them."""
        return self.sell(owner, currency, price)[1]

    def sell(self, owner: UUID, currency: str, price: int) -> tuple[Any, Any]:
        """Return what was bought, and the job that all was spent on, or none."""
        bought = self.purchase(owner, 12, price, currency, naive.NEVER)
        charge = self.spendable(owner)
        if self.is_frozen(owner) or charge < 2:
            return bought, multiple()
        return bought, self.capture(self.hold(owner, charge, HOUR), charge, charge * 3 // 4)

    @rule(target=Books.charged, owner=owners, currency=currencies, price=prices, is_paid=st.booleans(), won=prices)
    def dispute(self, owner: UUID, currency: str, price: int, is_paid: bool, won: int) -> Any:
        """A payment is disputed after it was spent, and mostly won, maybe after the maker was paid out."""
        bought, job = self.sell(owner, currency, price)
        if is_paid and self.order(currency):
            self.carry_out("")
        debt_id = self.claw_back(bought, min(won, price), str(uuid4()))
        self.follow()
        if won > price // 4:
            self.win(debt_id)
            self.follow()
        return job

    @initialize(target=Books.charged, price=st.integers(2, 9))
    def begin(self, price: int) -> Any:
        """Something was earned in both currencies, from a customer and from the maker as one."""
        jobs = [self.earn(owner, currency, price) for owner, currency in zip(OWNERS, ("usd", "eur"), strict=True)]
        return multiple(*jobs)

    @rule(target=Books.charged, owner=owners, currency=currencies, price=prices, fault=faults, parts=parts)
    def pay_out(self, owner: UUID, currency: str, price: int, fault: str, parts: list[int]) -> Any:
        """Most of what happens to payouts: what was earned is paid, and then reversed in parts."""
        job = self.earn(owner, currency, price)
        if self.order(currency):
            self.carry_out(fault)
            for part in parts:
                self.reverse(part, -1)
        return job

    @rule(target=Books.charged, owner=owners, currency=currencies, price=prices, fault=faults)
    def refuse(self, owner: UUID, currency: str, price: int, fault: str) -> Any:
        """Stripe does not pay the maker for a while: what is not there by then is the maker's again."""
        job = self.earn(owner, currency, price)
        self.order(currency)
        self.carry_out(fault)
        payee = Payee.objects.get()
        self.double.control(f"accounts/{payee.account_id}", recipient="restricted")
        self.carry_out("")
        there = {UUID(each["metadata"]["payout"]) for each in self.double.every("transfer")}
        for payout_id in self.paid_out.keys() - there - self.refused:
            gone, amount, money = self.paid_out[payout_id]
            self.left[gone] -= amount
            self.left_minor[gone] -= money
            self.refused.add(payout_id)
        self.double.control(f"accounts/{payee.account_id}", recipient="active")
        payees.follow(self.stripe)
        self.follow()
        return job

    @rule(key=keys)
    def exchange(self, key: str) -> None:
        purses = self.follow()
        if key in self.exchanged:
            assert [each.id for each in exchanges.make(self.creator, None, key)[0]] == self.exchanged[key]
            return
        ready = {currency: each for currency, each in sorted(purses.items()) if each[0] > 0}
        if not ready:
            refused(errors.NothingMatured, exchanges.make, self.creator, None, key)
            return
        made, _ = exchanges.make(self.creator, None, key)
        self.exchanged[key] = [each.id for each in made]
        worth = [(currency, amount, max(0, money)) for currency, (amount, money) in ready.items()]
        assert [(each.purse.currency, each.amount, each.money_minor) for each in made] == worth
        for exchange in made:
            amount, money, currency = exchange.amount, exchange.money_minor, exchange.purse.currency
            lot = Lot.objects.get(transfer__reference=exchange.id).id
            terms = (lot, money > 0, amount, money, currency if money else "", (naive.NEVER, 0))
            self.moved(self.creator, "in", amount, terms)
            self.summed.update(mint=amount, creator=-amount)  # not from the mint
            self.left[currency] += amount
            self.left_minor[currency] += money
        self.pay(self.creator)

    @rule(currency=currencies)
    def order_payout(self, currency: str) -> None:
        self.order(currency)

    def order(self, currency: str) -> bool:
        """Order a payout, which is refused if there is nothing."""
        amount, money = self.follow().get(currency, (0, 0))
        if amount <= 0 or money <= 0:
            refused(errors.PayoutBelowMinimum, payouts.order, self.creator, currency, uuid4(), str(uuid4()))
            return False
        payout, _ = payouts.order(self.creator, currency, uuid4(), str(uuid4()))
        assert (payout.amount, payout.money_minor) == (amount, money)
        self.paid_out[payout.id] = (currency, amount, money)
        self.left[currency] += amount
        self.left_minor[currency] += money
        return True

    @rule(fault=faults)
    def carry_out(self, fault: str) -> None:
        if fault:
            self.double.control("faults", kind=fault, match="POST /v1/transfers", count=1)
        payouts.carry_out(self.stripe)
        self.double.heal()
        Payout.objects.filter(status="ordered").update(due_at="2026-01-01T00:00:00Z")

    @rule(part=st.integers(1, 9), number=st.integers(0, 3))
    def reverse(self, part: int, number: int) -> None:
        """Stripe takes a transfer back, in part or whole, and says so, maybe before our own answer came."""
        open_ = [each for each in self.double.every("transfer") if not each["reversed"]]
        if not open_:
            return
        transfer = open_[number % len(open_)]
        amount = min(part, transfer["amount"] - transfer["amount_reversed"])
        self.double.client.v1.transfers.reversals.create(transfer["id"], {"amount": amount})
        for event in self.double.news():
            events.apply(event)
            events.apply(event)
        currency, tokens, money = self.paid_out[UUID(transfer["metadata"]["payout"])]
        until, before = (
            tokens * each // money for each in (transfer["amount_reversed"] + amount, transfer["amount_reversed"])
        )
        self.left[currency] -= until - before
        self.left_minor[currency] -= amount
        self.follow()

    @rule(debt_id=Books.owed)
    def win(self, debt_id: UUID) -> None:
        """The disputed money comes back."""
        if not self.debts[debt_id]["settled"]:
            debts.void(debt_id, "won")
            self.debts[debt_id] |= {"settled": True, "void": True}
            self.pay(self.debts[debt_id]["owner"])

    @rule()
    def everything_follows(self) -> None:
        self.follow()

    def beside(self) -> dict[str, int]:
        away = sum(self.away().values())
        advanced = sum(Purse.objects.values_list("advanced", flat=True))
        out = Payout.objects.aggregate(amount=Sum("amount", default=0), back=Sum("back", default=0))
        paid = out["amount"] - out["back"]
        return {"creator": advanced - away - paid, "platform": away - advanced, "mint": paid}

    @invariant()
    def every_payout_is_at_stripe_once_and_no_other_is(self) -> None:
        at_stripe = {UUID(each["metadata"]["payout"]): each for each in self.double.every("transfer")}
        assert len(at_stripe) == len(self.double.every("transfer"))
        for payout in Payout.objects.select_related("purse"):
            transfer = at_stripe.pop(payout.id, None)
            if payout.status == "ordered":
                continue  # it may have been carried out, and its answer lost
            if payout.id in self.refused:
                assert (payout.status, payout.back_minor, transfer) == ("failed", payout.money_minor, None)
                continue
            assert transfer is not None
            terms = (transfer["id"], transfer["amount"], transfer["currency"], transfer["amount_reversed"])
            assert terms == (payout.transfer_id, payout.money_minor, payout.purse.currency, payout.back_minor)
        assert not at_stripe


@pytest.mark.timeout(600)
@pytest.mark.django_db
def test_no_share_is_lost_or_doubled_whatever_becomes_of_it(settings: Any) -> None:
    settings.EARNINGS_DAYS = 0
    settings.PAYOUT_MINIMUMS = {"eur": 1, "usd": 1}
    run_state_machine_as_test(MakerStories, settings=stories())


def stories() -> settings:
    return settings(
        max_examples=settings.default.max_examples * 6 // 10,
        stateful_step_count=30,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
