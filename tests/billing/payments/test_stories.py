"""Stories of one customer's payments, made up by hypothesis, beside an accountant of a few sums: both must agree.

Top-ups by hand and automatic, cards saved, replaced and lost, Stripe ailing, its events late, doubled, out of order or
lost, refunds, disputes, jobs and grants in between, and time that passes. The books are real, in PostgreSQL, and
Stripe is the double that all tests use. `--stories 20000` tells as many.
"""

import itertools
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from django.db import connection, transaction
from django.utils import timezone
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from billing import errors
from billing.models import Clawback, Payer, RefundOrder, TopUp
from billing.payments import automatic, checkout, events, reconcile, refund_orders, refunds
from billing.payments.automatic import Terms
from billing.payments.stripe import Stripe
from billing.prices import packs
from billing.tokens import debts, holds, lots, proof, wallets
from marketplace.maintenance import tasks
from tests.billing.payments import clocks
from tests.billing.payments.accountant import BONUS, TOKEN, Accountant, Cap, Debt, Order, Shown
from tests.billing.payments.double import Double

QUICK, FULL, STEPS = 100, 2_000, 20
PRICES = {"coin": 100, "note": 300}
HOUR = timedelta(hours=1)
LONGEST_BLIND = timedelta(days=25)

VISA, DECLINED, POOR, LOST = "4242424242424242", "4000000000000002", "4000000000009995", "4000000000009987"
ASKS, DISPUTED, STOLEN = "4000002760003184", "4000000000000259", "4000000000005423"
CARDS = (VISA, VISA, VISA, DECLINED, ASKS, DISPUTED, STOLEN)
LATER = (VISA, VISA, DECLINED, POOR, LOST, ASKS, DISPUTED)
"""What a saved card may turn into."""
ASKED = ("POST /v1/payment_intents/*/confirm", "POST /v1/payment_intents/*/confirm", "POST /v1/payment_intents",
         "POST /v1/payment_intents/*/cancel", "POST /v1/checkout/sessions", "POST /v1/customers", "POST /v1/refunds",
         "GET *")  # fmt: skip
TROUBLES = tuple(itertools.product(("error", "drop", "error_after", "drop_after", "drop_after"), ASKED))
RARE = ("the account is switched", "another pack", "the customer is deleted", "a debt is waived")
AWAY = (errors.PaymentsUnavailable,)

# What the customer's and the operator's pages show, read at once, since it is read after every step. Lots are as of
# their cursor, and where something is owed Kiln has just moved that.
SHOWN = """
SELECT (SELECT coalesce(sum(remaining), 0)::bigint FROM billing_lot WHERE kind = 'paid'),
       frozen,
       (SELECT coalesce(json_object_agg(id, json_build_array(status, price_minor, currency, automatic, payment_intent,
                                                             refunded_minor)), '{}') FROM billing_topup),
       (SELECT coalesce(json_agg(json_build_array(debt.amount - collected, remaining)), '[]')
        FROM billing_clawback AS debt JOIN billing_lot AS lot ON lot.id = lot_id WHERE settled_at IS NULL),
       (SELECT coalesce(sum(amount), 0)::bigint FROM billing_transfer WHERE kind = 'expiry')
FROM billing_wallet WHERE owner = %s
"""

at_once = st.sampled_from([True, True, False])
nth = st.integers(0, 4)
tens = st.integers(1, 30).map(lambda number: number * 10)
tokens = st.integers(1, 35).map(lambda number: number * 10 * TOKEN)
troubles = st.sampled_from([None] * len(TROUBLES) + list(TROUBLES))


class Stories(RuleBasedStateMachine):
    """Every rule does one thing that may happen; afterwards the accountant compares."""

    def __init__(self) -> None:
        super().__init__()
        self.story = transaction.atomic()
        self.story.__enter__()
        self.double = Double()
        self.stripe = Stripe(self.double.client)
        self.accountant = Accountant()
        self.ids = (UUID(int=number) for number in itertools.count(1_000))
        self.owner = next(self.ids)
        self.ahead = self.blind = timedelta(0)
        self.skew = timedelta(0)
        self.is_open = True
        self.numbers = itertools.count(1)
        self.waiting: list[tuple[int, Any]] = []
        self.told: list[tuple[int, Any]] = []
        self.pages: list[str] = []
        self.jobs: dict[UUID, int] = {}
        """Open holds."""
        self.charged: dict[UUID, int] = {}
        wallets.create(self.owner)
        for name, price in PRICES.items():
            packs.publish(name, price * TOKEN, price * BONUS, {"eur": price, "usd": price})

    @initialize(
        seconds=st.integers(-5, 5), begins=st.sampled_from(["", "pays", "saves", "saves"]), threshold=tokens,
        cap=st.sampled_from([100, 200, 300]),
    )  # fmt: skip
    def begin(self, seconds, begins, threshold, cap):
        """The process's clock is some seconds off; the customer may already have paid, or saved a card."""
        self.skew = timedelta(seconds=seconds)
        self.pass_time(timedelta(0))
        if begins:
            self.pays_by_hand("coin", "eur", VISA, True)
        if begins == "saves":
            self.order_automatic("coin", "eur", threshold, cap, False, None)
            self.visit_page(0, VISA, "card", True, True)

    def teardown(self) -> None:
        try:
            if sys.exc_info()[0] is None:
                self.comes_to_rest()
        finally:
            self.double.close()
            transaction.set_rollback(True)
            self.story.__exit__(None, None, None)

    # --- the customer ---

    @rule(pack=st.sampled_from(list(PRICES)), currency=st.sampled_from(["eur", "eur", "usd"]), saves=st.booleans(),
          trouble=troubles)  # fmt: skip
    def order_top_up(self, pack, currency, saves, trouble):
        order = self.order(pack, currency, saves)
        key = str(next(self.ids))
        for _ in range(2):  # a customer who gets no answer asks again
            with self.in_trouble(trouble):
                made, _ = checkout.buy(self.stripe, next(self.ids), self.owner, order, key)
                self.pages += [made.url] if made.url else []
                return
            trouble = None

    @rule(pack=st.sampled_from(list(PRICES)), currency=st.sampled_from(["eur", "eur", "usd"]),
          card=st.sampled_from(CARDS), post=at_once)  # fmt: skip
    def pays_by_hand(self, pack, currency, card, post):
        self.order_top_up(pack, currency, False, None)
        self.visit_page(0, card, "card", True, post)

    @precondition(lambda self: self.pages)
    @rule(which=nth, card=st.sampled_from(CARDS), method=st.sampled_from(["card", "card", "us_bank_account"]),
          agrees=st.booleans(), post=at_once)  # fmt: skip
    def visit_page(self, which, card, method, agrees, post):
        form = {"email": "alice@example.com", "name": "Alice", "number": card, "expiry": "12/34", "method": method}
        self.double.visit(self.chosen(self.pages, which), **form, bank="yes" if agrees else "no")
        self.after(post)

    @rule(pack=st.sampled_from(list(PRICES)), currency=st.sampled_from(["eur", "eur", "usd"]), threshold=tokens,
          cap=st.sampled_from([100, 200, 300, 600]), new_card=st.booleans(), trouble=troubles)  # fmt: skip
    def order_automatic(self, pack, currency, threshold, cap, new_card, trouble):
        if cap < PRICES[pack]:
            return
        terms = Terms(pack, currency, threshold, cap)
        self.accountant.caps.append(Cap(self.moment, currency, cap))
        with self.in_trouble(trouble):
            made = automatic.order(self.stripe, self.owner, terms, self.order(pack, currency, True), new_card)
            self.pages += [made.card_url] if made.card_url else []

    @rule(trouble=troubles)
    def stop_automatic(self, trouble):
        self.accountant.caps.append(Cap(self.moment, "eur", 0))
        with self.in_trouble(trouble):
            automatic.cancel(self.stripe, self.owner)
        self.after(True)

    @rule(what=st.sampled_from(RARE), which=nth, post=at_once)
    def something_rare(self, what, which, post):
        match what:
            case "the account is switched":
                self.is_open = not self.is_open
            case "another pack":
                self.publish_pack(list(PRICES)[which % len(PRICES)])
            case "the customer is deleted" if self.customers():
                self.double.delete_customer(self.customers()[-1]["id"])
                self.after(post)
            case "a debt is waived":
                self.waive_debt(which)

    @rule(amount=tokens, trouble=troubles, post=at_once)
    def buy_job(self, amount, trouble, post):
        """A job is bought if the Tokens suffice; soon after it, payments are kept."""
        now, frozen = lots.position(self.owner).balance, self.shown().frozen
        job = next(self.ids)
        try:
            wallets.hold(self.owner, amount, job, HOUR)
        except errors.AccountFrozen:
            assert frozen
        except errors.InsufficientTokens:
            assert now.available < amount
        else:
            assert not frozen
            assert now.available >= amount
            self.jobs[job] = amount
        self.payments_are_kept(trouble, post)

    @precondition(lambda self: self.jobs)
    @rule(which=nth, share=st.sampled_from([100, 100, 50, 10, 0]))
    def end_job(self, which, share):
        job = self.chosen(list(self.jobs), which)
        amount = self.jobs.pop(job)
        charge = amount // TOKEN * share // 100 // 10 * 10 * TOKEN
        if not charge:
            wallets.release(job)
            return
        wallets.capture(job, charge)
        self.accountant.spent += charge
        self.charged[job] = charge

    @precondition(lambda self: self.charged)
    @rule(which=nth)
    def refund_job(self, which):
        job = self.chosen(list(self.charged), which)
        amount = self.charged.pop(job)
        wallets.refund(job, amount, f"refund {job}")
        self.accountant.spent -= amount

    @rule(amount=tokens, days=st.sampled_from([None, 1, 2]))
    def grant(self, amount, days):
        until = self.now() + timedelta(days=days) if days else None
        wallets.grant(self.owner, amount, f"grant {next(self.ids)}", expires_at=until)
        self.accountant.granted += amount

    # --- at Stripe ---

    @precondition(lambda self: self.at_stripe("payment_intent", "processing"))
    @rule(which=nth, succeeded=st.booleans(), post=at_once)
    def bank_answers(self, which, succeeded, post):
        intent = self.chosen(self.at_stripe("payment_intent", "processing"), which)
        self.double.control(f"payment_intents/{intent['id']}/complete", succeeded=succeeded)
        self.after(post)

    @precondition(lambda self: self.at_stripe("charge", "succeeded"))
    @rule(which=nth, amount=st.one_of(st.none(), tens), status=st.sampled_from(["", "pending"]), post=at_once)
    def refund_at_stripe(self, which, amount, status, post):
        charge = self.chosen(self.at_stripe("charge", "succeeded"), which)["id"]
        given = {"amount": amount, "status": status}
        self.double.control("refunds", charge=charge, **{name: value for name, value in given.items() if value})
        self.after(post)

    @precondition(lambda self: self.at_stripe("refund", "succeeded", "pending"))
    @rule(which=nth, status=st.sampled_from(["failed", "failed", "succeeded", "canceled"]), post=at_once)
    def refund_ends(self, which, status, post):
        refund = self.chosen(self.at_stripe("refund", "succeeded", "pending"), which)
        self.double.control(f"refunds/{refund['id']}", status=status)
        self.after(post)

    @precondition(lambda self: self.at_stripe("charge", "succeeded"))
    @rule(which=nth, amount=st.one_of(st.none(), tens), post=at_once)
    def dispute(self, which, amount, post):
        charge = self.chosen(self.at_stripe("charge", "succeeded"), which)["id"]
        self.double.control("disputes", charge=charge, **({"amount": amount} if amount else {}))
        self.after(post)

    @precondition(lambda self: self.at_stripe("dispute", "needs_response"))
    @rule(which=nth, status=st.sampled_from(["won", "lost"]), post=at_once)
    def close_dispute(self, which, status, post):
        dispute = self.chosen(self.at_stripe("dispute", "needs_response"), which)["id"]
        self.double.control(f"disputes/{dispute}/close", status=status)
        self.after(post)

    @precondition(lambda self: self.at_stripe("charge", "succeeded"))
    @rule(which=nth, post=at_once)
    def warn_of_fraud(self, which, post):
        self.double.control("fraud_warnings", charge=self.chosen(self.at_stripe("charge", "succeeded"), which)["id"])
        self.after(post)

    @precondition(lambda self: self.saved_cards())
    @rule(which=nth, becomes=st.sampled_from(LATER), post=at_once)
    def change_card(self, which, becomes, post):
        """A saved card is removed at Stripe, or its bank will answer otherwise from now on."""
        card = self.chosen(self.saved_cards(), which)["id"]
        if becomes == LOST:
            self.double.detach(card)
        else:
            self.double.control(f"payment_methods/{card}", number=becomes)
        self.after(post)

    @precondition(lambda self: self.waiting)
    @rule(which=nth)
    def an_event_arrives(self, which):
        self.deliver(self.waiting.pop(which % len(self.waiting)))

    @precondition(lambda self: self.told)
    @rule(which=nth)
    def an_event_arrives_again(self, which):
        self.deliver(self.chosen(self.told, which))

    # --- the operator, and what runs by itself ---

    @rule(which=nth, amount=tens, trouble=troubles)
    def refund_top_up(self, which, amount, trouble):
        paid = list(TopUp.objects.filter(paid_at__isnull=False).order_by("id"))
        if not paid:
            return
        top_up, asked = self.chosen(paid, which), f"ours{next(self.ids)}"
        try:
            with transaction.atomic():
                refunds.take(top_up.id, amount, asked)
        except errors.RefundAboveUnspent:
            return
        self.accountant.asked[asked] = (top_up.payment_intent, amount)
        forgiven = Clawback.objects.filter(idempotency_key__startswith=f"{asked}:", settlement="waived")
        self.accountant.waived[asked] += (waived := sum(each.amount - each.collected for each in forgiven))
        assert waived <= amount * BONUS
        self.send(asked, trouble)
        self.after(True)

    def waive_debt(self, which):
        if found := debts.of(self.owner):
            debt = self.chosen(found, which)
            owed = debt.owed
            debts.waive(debt.id, "goodwill")
            self.accountant.waived[debt.idempotency_key.partition(":")[0]] += owed

    def publish_pack(self, pack):
        price = PRICES[pack]
        packs.publish(pack, price * TOKEN, price * BONUS, {"eur": price, "usd": price})

    @rule(trouble=troubles, post=at_once)
    def payments_are_kept(self, trouble, post):
        with self.in_trouble(trouble):
            refund_orders.carry_out(self.stripe)
            automatic.run(self.stripe, lambda: next(self.ids), lambda owners: owners if self.is_open else [])
        self.after(post and not trouble)  # where Stripe ails, its events are late

    @rule()
    def lots_are_kept(self):
        tasks.keep_lots()

    @rule(trouble=troubles)
    def payments_are_reconciled(self, trouble):
        self.after(False)
        with self.in_trouble(trouble):
            _, failed = reconcile.run(self.stripe)
            assert not failed
            self.blind = timedelta(0)
            for number, event in self.waiting:
                self.accountant.hears(event, number)
            self.told, self.waiting = self.told + self.waiting, []
        self.after(True)

    @rule(passes=st.sampled_from([timedelta(minutes=2), HOUR, HOUR * 7, HOUR * 23, HOUR * 24, HOUR * 50]))
    def time_passes(self, passes):
        if self.blind + passes > LONGEST_BLIND:  # Stripe lists events for 30 days
            self.payments_are_reconciled(None)
        self.pass_time(passes)
        for reference in holds.due():
            wallets.expire(reference)
            self.jobs.pop(reference)
        self.after(False)

    # --- what the rules are made of ---

    def pass_time(self, passes: timedelta) -> None:
        self.ahead, self.blind = self.ahead + passes, self.blind + passes
        clocks.move(self.ahead, self.ahead + self.skew)
        if passes:
            self.double.advance(passes.total_seconds())

    def now(self) -> datetime:
        return timezone.now()

    @property
    def moment(self) -> float:
        found: float = self.now().timestamp()
        return found

    def order(self, pack: str, currency: str, saves: bool) -> checkout.Order:
        return checkout.Order(
            pack, currency, "https://kiln.example/a", "https://kiln.example/b", "alice@example.com",
            {"pack": pack, "currency": currency}, saves,
        )  # fmt: skip

    @contextmanager
    def in_trouble(self, trouble: tuple[str, str] | None) -> Iterator[None]:
        """Stripe ails in one place, once; that no answer came is the only thing that may be told."""
        if trouble:
            self.double.control("faults", kind=trouble[0], match=trouble[1])
        with suppress(*AWAY):
            yield
        self.double.heal()

    def after(self, post: bool) -> None:
        """What happened made events: they arrive now, or later."""
        self.pass_time(timedelta(seconds=2))
        news = list(zip(self.numbers, self.double.news(), strict=False))
        if not post:
            self.waiting += news
            return
        for each in news:
            self.deliver(each)

    def deliver(self, numbered: tuple[int, Any]) -> None:
        number, event = numbered
        if event["type"] not in events.HANDLERS:
            return
        events.apply(event)
        self.accountant.hears(event, number)
        self.told.append(numbered)
        refund_orders.carry_out(self.stripe)

    def send(self, asked: str, trouble: tuple[str, str] | None) -> None:
        with self.in_trouble(trouble):
            try:
                refunds.send(self.stripe, asked)
            except errors.PaymentsRefused:
                self.accountant.asked.pop(asked, None)

    def chosen(self, things: list[Any], which: int) -> Any:
        """The newest of them, or one before."""
        return things[-1 - which % len(things)]

    def at_stripe(self, kind: str, *statuses: str) -> list[Any]:
        return [each for each in self.double.every(kind) if each["status"] in statuses]

    def customers(self) -> list[Any]:
        return [each for each in self.double.every("customer") if not each.get("deleted")]

    def saved_cards(self) -> list[Any]:
        return [each for each in self.double.every("payment_method") if each["customer"]]

    def shown(self) -> Shown:
        now = wallets.balance(self.owner)
        with connection.cursor() as cursor:
            cursor.execute(SHOWN, [self.owner])
            paid, frozen, top_ups, owed, expired = cursor.fetchone()
        orders = {key: Order(*terms) for key, terms in top_ups.items()}
        return Shown(
            now.total, now.held, now.available, paid, frozen, [Debt(*debt) for debt in owed], orders, expired
        )  # fmt: skip

    @invariant()
    def both_agree(self):
        must_be_none(self.accountant.check(self.double.every("charge"), self.shown()))

    def comes_to_rest(self) -> None:
        """Everybody is told everything, and all that runs by itself has run: nothing may be missing then."""
        before = None
        while before != (before := list(TopUp.objects.order_by("id").values_list("status", "url"))):
            self.payments_are_reconciled(None)
            self.payments_are_kept(None, True)
            for asked in list(self.accountant.asked):
                self.send(asked, None)
            self.time_passes(HOUR)
        self.payments_are_reconciled(None)
        self.lots_are_kept()
        self.both_agree()
        stripe = {kind: self.double.every(kind) for kind in ("charge", "refund", "dispute")}
        unable = RefundOrder.objects.exclude(outcome__in=["refunded", "nothing was left"])  # or the bank sent it back
        orders = {
            *unable.values_list("payment_intent", flat=True),
            *(each["payment_intent"] for each in stripe["dispute"]),
        }
        must_be_none(self.accountant.settle(stripe, orders))
        gone = {each["id"] for each in self.double.every("customer") if each.get("deleted")}
        assert not Payer.objects.filter(customer_id__in=gone).exists()
        saved = {each["id"] for each in self.saved_cards()}
        assert set(Payer.objects.exclude(card_id="").values_list("card_id", flat=True)) <= saved
        assert proof.check() == []


def must_be_none(wrong: list[str]) -> None:
    assert not wrong, "\n".join(wrong)


@pytest.fixture
def stories(pytestconfig: pytest.Config, full: bool) -> int:
    return int(pytestconfig.getoption("--stories") or (FULL if full else QUICK))


@pytest.fixture
def quiet() -> Iterator[None]:
    """What Stripe refuses is logged, and here it refuses thousands of times."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.timeout(1800)
@pytest.mark.django_db
def test_every_story_of_payments_ends_as_the_accountant_says(stories, quiet):
    with clocks.movable():
        with connection.cursor() as cursor:  # the proof is quick on a few rows, and starting its helpers is not
            cursor.execute("SET LOCAL max_parallel_workers_per_gather = 0")
        run_state_machine_as_test(
            Stories,
            settings=settings(
                max_examples=stories, stateful_step_count=STEPS, deadline=None, suppress_health_check=list(HealthCheck)
            ),
        )
