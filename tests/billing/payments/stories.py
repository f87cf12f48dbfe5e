"""Stories of one customer's payments, made up by hypothesis, beside an accountant of a few sums: both must agree.

Top-ups by hand and automatic, cards saved, replaced and lost, Stripe ailing, its events late, doubled, out of order or
lost, refunds, disputes, jobs and grants in between, time that passes, and months that are closed. The books are real,
in PostgreSQL, and Stripe is the double that all tests use.
"""

import itertools
import sys
from datetime import timedelta

from django.db import transaction
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from billing import errors
from billing.models import Clawback, Payer, RefundOrder, TopUp
from billing.payments import automatic, checkout, invoices, reconcile, refund_orders, refunds
from billing.payments.automatic import Terms
from billing.tokens import debts, holds, lots, proof, wallets
from marketplace.maintenance import tasks
from tests.billing.payments.accountant import BONUS, TOKEN, Cap
from tests.billing.payments.scene import CURRENCIES, PRICES, Scene, must_be_none

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
# No answer came to a charge, and its event is late.
UNANSWERED = ("drop_after", "POST /v1/payment_intents/*/confirm")
BEGINNINGS = ("", "pays", "saves", "is charged", "pays late")
ALWAYS_LOW = 350_000
RARE = ("the account is switched", "another pack", "the customer is deleted", "a debt is waived")

currencies = st.sampled_from(["eur", *CURRENCIES])
at_once = st.sampled_from([True, True, False])
nth = st.integers(0, 4)
tens = st.integers(1, 30).map(lambda number: number * 10)
tokens = st.integers(1, 35).map(lambda number: number * 10 * TOKEN)
troubles = st.sampled_from([None] * len(TROUBLES) + list(TROUBLES))


class Stories(Scene, RuleBasedStateMachine):
    """Every rule does one thing that may happen; afterwards the accountant compares."""

    @initialize(
        seconds=st.integers(-5, 5), begins=st.sampled_from(BEGINNINGS), threshold=tokens,
        cap=st.sampled_from([100, 200, 300]),
    )  # fmt: skip
    def begin(self, seconds, begins, threshold, cap):
        """The process's clock is some seconds off; the customer may have paid, saved a card, or even be charged.

        Who pays late was asked by the bank an hour before, and would at once need another top-up than the one a day.
        """
        self.skew = timedelta(seconds=seconds)
        self.pass_time(timedelta(0))
        if begins:
            self.pays_by_hand("coin", "eur", VISA, True)
        if begins == "pays late":
            threshold, cap = ALWAYS_LOW, PRICES["coin"]
        if begins in ("saves", "is charged", "pays late"):
            self.order_automatic("coin", "eur", threshold, cap, False, None)
            self.visit_page(0, VISA, "card", True, True)
        if begins == "pays late":
            self.change_card(0, ASKS, True)
            self.payments_are_kept(None, True)
            self.time_passes(HOUR)
            self.visit_page(0, VISA, "card", True, True)
        if begins == "is charged":
            self.payments_are_kept(None, True)  # which finds the card
            self.payments_are_kept(UNANSWERED, False)

    def teardown(self) -> None:
        try:
            if sys.exc_info()[0] is None:
                self.comes_to_rest()
        finally:
            self.double.close()
            transaction.set_rollback(True)
            self.story.__exit__(None, None, None)

    # --- the customer ---

    @rule(pack=st.sampled_from(list(PRICES)), currency=currencies, saves=st.booleans(),
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

    @rule(pack=st.sampled_from(list(PRICES)), currency=currencies,
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

    @rule(pack=st.sampled_from(list(PRICES)), currency=currencies, threshold=tokens,
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
                self.publish_pack(*list(PRICES.items())[which % len(PRICES)])
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
        self.accountant.asks(asked, top_up.payment_intent, amount, self.right_moment)
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

    @rule(trouble=troubles, post=at_once)
    def payments_are_kept(self, trouble, post):
        with self.in_trouble(trouble):
            refund_orders.carry_out(self.stripe)
            automatic.run(self.stripe, lambda: next(self.ids), lambda owners: owners if self.is_open else [])
        asked = TopUp.objects.filter(automatic=True).exclude(url__in=["", *self.pages])
        self.pages += asked.values_list("url", flat=True)
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
                self.accountant.hears(event, number, self.right_moment)
            self.told, self.waiting = self.told + self.waiting, []
        self.after(True)

    @rule(passes=st.sampled_from([timedelta(minutes=2), HOUR, HOUR * 7, HOUR * 50]))
    def time_passes(self, passes):
        if self.blind + passes > LONGEST_BLIND:  # Stripe lists events for 30 days
            self.payments_are_reconciled(None)
        self.pass_time(passes)
        for reference in holds.due():
            wallets.expire(reference)
            self.jobs.pop(reference)
        self.after(False)

    @rule(hours=st.sampled_from([23, 24]))
    def about_a_day_passes(self, hours):
        """What counts for a day may count no more, and what waited for that begins."""
        self.time_passes(HOUR * hours)
        self.payments_are_kept(None, True)

    @rule()
    def months_are_closed(self):
        while invoices.close(self.owner, self.customers_of):
            pass
        must_be_none(self.accountant.read(self.closed_months()))

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
        self.months_are_closed()
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
