"""Refunds and disputes of one payment that come, overlap and are undone: Tokens stand for the money that is there."""

from itertools import permutations
from uuid import uuid4

import pytest
from django.utils import timezone

from billing.models import Clawback, Reversal, TopUp
from billing.payments import events
from billing.prices import packs
from billing.tokens import debts, proof, wallets
from tests.billing.books import HOUR

pytestmark = pytest.mark.django_db

PRICE, TOKENS, BONUS = 113, 151, 19


class Payment:
    """A top-up that was paid, and what Stripe says of it afterwards."""

    def __init__(self, owner, tokens=TOKENS, bonus=BONUS):
        now = timezone.now()
        self.owner = owner
        self.pack = packs.publish("small-change", tokens, bonus, {"usd": PRICE})
        self.top_up = TopUp.objects.create(
            id=uuid4(), owner=owner, pack=self.pack, currency="usd", price_minor=PRICE, order={}, created_at=now,
            expires_at=now + HOUR,
        )  # fmt: skip
        self.say(
            "checkout.session.completed", id="cs_1", client_reference_id=str(self.top_up.id), payment_status="paid",
            amount_total=PRICE, currency="usd",
        )  # fmt: skip

    def say(self, kind, **document):
        event = {"id": f"evt_{uuid4()}", "type": kind, "data": {"object": {"payment_intent": "pi_1", **document}}}
        return events.apply(event)

    def refund(self, amount, status="succeeded"):
        self.say(
            "refund.created" if status == "succeeded" else "refund.failed", id="re_1", amount=amount, status=status
        )

    def dispute(self, amount, status="needs_response"):
        self.say("charge.dispute.updated", id="du_1", amount=amount, status=status)

    def spend(self, amount):
        reference = uuid4()
        wallets.hold(self.owner, amount, reference, HOUR)
        wallets.capture(reference, amount)

    @property
    def tokens(self):
        return wallets.balance(self.owner).total

    def demanded(self):
        """Money by the reversal that it was demanded for, of those that stand."""
        standing = Reversal.objects.filter(standing=True).values_list("id", flat=True)
        return {
            each: sum(back.money_minor for back in Clawback.objects.filter(idempotency_key__startswith=each))
            for each in standing
        }


@pytest.fixture
def payment(bob):
    yield Payment(bob)
    assert proof.check() == []


def test_a_dispute_that_found_nothing_left_takes_what_a_failed_refund_brings_back(payment):
    payment.refund(PRICE)
    payment.dispute(48)
    assert (payment.tokens, payment.demanded()) == (0, {"re_1": PRICE, "du_1": 0})
    payment.refund(PRICE, "failed")
    assert payment.demanded() == {"du_1": 48}
    assert payment.tokens == TOKENS + BONUS - TOKENS * 48 // PRICE - BONUS * 48 // PRICE


def test_what_it_took_comes_back_once_when_the_dispute_is_won(payment):
    payment.refund(PRICE)
    payment.dispute(48)
    payment.refund(PRICE, "failed")
    payment.dispute(48, "won")
    assert payment.tokens == TOKENS + BONUS
    payment.refund(PRICE, "failed")
    assert payment.tokens == TOKENS + BONUS


def test_what_was_spent_meanwhile_is_owed(payment):
    payment.refund(40)
    payment.spend(wallets.balance(payment.owner).available)
    payment.dispute(PRICE)
    payment.refund(40, "failed")
    assert payment.tokens == 0
    assert sum(back.owed for back in Clawback.objects.all()) > 0
    assert sum(payment.demanded().values()) == PRICE


@pytest.mark.parametrize("spent", [TOKENS + BONUS, TOKENS + BONUS - 5])
def test_what_was_waived_for_a_refund_that_failed_is_demanded_by_the_next_one(payment, spent):
    payment.spend(spent)
    payment.refund(6)
    for debt in debts.of(payment.owner):
        debts.waive(debt.id, "goodwill")
    payment.refund(6, "failed")
    assert payment.demanded() == {}
    payment.dispute(PRICE)
    assert payment.demanded() == {"du_1": PRICE}
    owed = sum(debt.owed for debt in debts.of(payment.owner))
    assert (payment.tokens, owed) == (0, spent)


def test_a_refund_of_less_than_a_milli_token_costs_is_demanded_again_once_it_failed(bob):
    payment = Payment(bob, tokens=17, bonus=3)
    payment.refund(6)
    assert (payment.tokens, payment.demanded()) == (20, {"re_1": 6})
    payment.refund(6, "failed")
    payment.dispute(PRICE)
    assert (payment.tokens, payment.demanded()) == (0, {"du_1": PRICE})
    assert proof.check() == []


@pytest.mark.parametrize("parts", [[16] * 7 + [1], [100, 13], [48, 16, 48, 1], [37, 37, 39]], ids=len)
@pytest.mark.parametrize("spent", [0, 7, BONUS + 40])
def test_a_payment_that_goes_back_in_parts_leaves_nothing_of_its_bonus(payment, parts, spent):
    if spent:
        payment.spend(spent)
    for number, part in enumerate(parts):
        payment.say("refund.created", id=f"re_{number}", amount=part, status="succeeded")
        away = sum(parts[: number + 1])
        demanded = sum(back.amount for back in Clawback.objects.all())
        assert demanded == TOKENS * away // PRICE + BONUS * away // PRICE
    owed = sum(debt.owed for debt in debts.of(payment.owner))
    assert (payment.tokens, owed) == (0, spent)


@pytest.mark.parametrize("order", list(permutations(["warning_needs_response", "needs_response", "under_review"])))
def test_an_inquiry_that_became_a_dispute_takes_the_tokens_in_any_order(payment, order):
    for status in order:
        payment.dispute(PRICE, status)
    assert payment.tokens == 0
    payment.dispute(PRICE, "won")
    found = Reversal.objects.get()
    assert payment.tokens == TOKENS + BONUS
    assert found.created_at <= found.since < found.until


def test_an_inquiry_takes_nothing_and_is_never_said_to_have(payment):
    payment.dispute(PRICE, "warning_needs_response")
    payment.dispute(PRICE, "warning_closed")
    found = Reversal.objects.get()
    assert (payment.tokens, found.since, found.until) == (TOKENS + BONUS, None, None)


@pytest.mark.parametrize("order", list(permutations(range(4))))
def test_the_end_is_the_same_in_any_order(payment, order):
    acts = [
        lambda: payment.refund(PRICE),
        lambda: payment.refund(PRICE, "failed"),
        lambda: payment.dispute(48),
        lambda: payment.dispute(48, "lost"),
    ]
    for number in order:
        acts[number]()
    assert payment.demanded() == {"du_1": 48}
    assert payment.tokens == TOKENS + BONUS - TOKENS * 48 // PRICE - BONUS * 48 // PRICE
