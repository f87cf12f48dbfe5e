"""Card payments where Stripe, or two requests at once, make it hard. After each test the ledger must be right."""

from datetime import timedelta

import pytest
from django.db import connection
from django.utils import timezone

from billing.models import RefundOrder, StripeEvent, TopUp
from billing.payments import refund_orders
from billing.payments.stripe import Stripe
from devstack import processes
from tests.marketplace.shops import STOLEN, WHOLE_MEDIUM, reconcile, send, spend
from tests.threads import together

pytestmark = pytest.mark.django_db(transaction=True)


def test_two_requests_with_one_key_at_the_same_moment_open_one_checkout(shop):
    shop.fault("slow", "POST /v1/checkout/sessions", seconds=1)
    answers = together(2, lambda _: shop.order(Idempotency_Key="k1"))
    assert sorted(answer.status_code for answer in answers) in ([201, 201], [201, 409])
    assert TopUp.objects.count() == 1
    again = shop.order(Idempotency_Key="k1").json()
    assert {answer.json()["url"] for answer in answers if answer.status_code == 201} == {again["url"]}
    assert shop.session(again).url == again["url"]


def test_an_error_that_stripe_keeps_under_a_key_does_not_bar_the_top_up(shop):
    shop.fault("error_after", "POST /v1/checkout/sessions")
    assert shop.order(Idempotency_Key="k1").status_code == 503
    top_up = shop.order(Idempotency_Key="k1").json()
    assert shop.pay(top_up) == 303
    shop.wait(top_up, "paid")
    assert (shop.tokens, TopUp.objects.count()) == (WHOLE_MEDIUM, 1)


class WatchedStripe(Stripe):
    """Remembers of each refund whether it was asked for inside a transaction."""

    def __init__(self, client):
        super().__init__(client)
        self.asked = []

    def refund_rest(self, *order):
        self.asked.append(connection.in_atomic_block)
        return super().refund_rest(*order)


def test_a_refund_for_a_stolen_card_that_stripe_does_not_take_is_made_later_and_once(shop):
    shop.fault("error", "POST /v1/refunds", count=2)
    top_up = shop.buy()
    assert shop.pay(top_up, STOLEN) == 303
    warned = StripeEvent.objects.filter(type="radar.early_fraud_warning.created")
    assert processes.wait_until(lambda: warned.exists() and not shop.faults(), 15)
    assert shop.wait(top_up, "paid")["refunded"] == "0.00"
    assert reconcile()[1] == 0
    RefundOrder.objects.update(due_at=timezone.now() - timedelta(seconds=1))
    watched = WatchedStripe(shop.client)
    together(3, lambda _: refund_orders.carry_out(watched))
    shop.wait(top_up, "refunded")
    assert (shop.tokens, RefundOrder.objects.get().outcome, watched.asked) == (0, "refunded", [False])
    payment = TopUp.objects.get().payment_intent
    assert [refund.amount for refund in shop.v1.refunds.list({"payment_intent": payment}).data] == [2000]


class StripeWithAFault(Stripe):
    """Fails in a way that nobody foresaw, for one payment."""

    payment = ""

    def refund_rest(self, order, reason):
        if order.payment_intent == self.payment:
            raise RuntimeError
        return super().refund_rest(order, reason)


def test_a_refund_that_fails_however_holds_up_no_other(shop):
    """Whatever names a top-up at Stripe need not be one of ours: other products may share the account."""
    terms = {"amount": 700, "currency": "eur", "metadata": {"top_up": "order-17"}}
    foreign = shop.v1.payment_intents.create(terms).id
    (_, first), (second, payment) = shop.paid("small"), shop.paid("small")
    for intent in (foreign, first, payment):
        refund_orders.place(intent, refund_orders.Reason.FRAUD, f"issfr_{intent}")
    faulty = StripeWithAFault(shop.client)
    faulty.payment = first
    assert len(refund_orders.carry_out(faulty)) == 2
    shop.wait(second, "refunded")
    outcomes = dict(RefundOrder.objects.values_list("payment_intent", "outcome"))
    assert outcomes == {foreign: "not ours", first: "", payment: "refunded"}


def test_a_refund_after_a_dispute_that_was_won_takes_everything_that_the_payment_bought(shop, client):
    top_up, payment = shop.paid("small")
    spend(shop.customer, 4_000_000)
    dispute = shop.control("disputes", payment_intent=payment)
    shop.wait(top_up, "disputed")
    shop.control(f"disputes/{dispute['id']}/close", status="won")
    shop.wait(top_up, "paid")
    assert (shop.tokens, shop.customer.get("/v1/balance").json()["debts"]) == (6_000_000, [])
    refund = {"id": "re_late", "payment_intent": payment, "amount": 500, "status": "succeeded"}
    assert send(client, {"id": "evt_late", "type": "refund.created", "data": {"object": refund}}).status_code == 200
    shop.wait(top_up, "refunded")
    balance = shop.customer.get("/v1/balance").json()
    assert (balance["available"], [debt["owed"] for debt in balance["debts"]]) == ("0", ["4000"])


def test_a_bonus_that_was_spent_is_owed_when_its_payment_goes_back_and_other_tokens_pay_it(shop):
    top_up, payment = shop.paid("medium")
    spend(shop.customer, 5_000_000)  # the 4,000 of the bonus first, and 1,000 of the 40,000 that were paid
    shop.control("refunds", payment_intent=payment, amount=500)
    shop.wait(top_up, "partially_refunded")
    assert (shop.tokens, shop.customer.get("/v1/balance").json()["frozen"]) == (28_000_000, False)
    shop.control("refunds", payment_intent=payment)
    shop.wait(top_up, "refunded")
    balance = shop.customer.get("/v1/balance").json()
    assert (balance["available"], balance["frozen"]) == ("0", True)
    assert sum(int(debt["owed"]) for debt in balance["debts"]) == 5_000
    assert {debt["price"] for debt in balance["debts"]} >= {None}


def test_a_refund_for_a_stolen_card_that_the_bank_sends_back_is_not_called_refunded(shop):
    top_up = shop.buy()
    assert shop.pay(top_up, STOLEN) == 303
    shop.wait(top_up, "refunded")
    assert processes.wait_until(lambda: RefundOrder.objects.filter(outcome="refunded").exists(), 15)
    (refund,) = shop.v1.refunds.list({"payment_intent": TopUp.objects.get().payment_intent}).data
    shop.control(f"refunds/{refund.id}/fail")
    shop.wait(top_up, "paid")
    assert (RefundOrder.objects.get().outcome, shop.tokens) == ("sent back by the bank", WHOLE_MEDIUM)


def test_a_refund_that_was_canceled_brings_the_tokens_back(shop):
    top_up, payment = shop.paid()
    refund = shop.control("refunds", payment_intent=payment, status="requires_action")
    shop.wait(top_up, "refunded")
    shop.v1.refunds.cancel(refund["id"])
    shop.wait(top_up, "paid")
    assert shop.tokens == WHOLE_MEDIUM


def test_a_bank_debit_heard_of_late_is_under_way_and_not_expired(shop, client):
    shop.fault("error_after", "POST /v1/checkout/sessions")
    assert shop.order("small").status_code == 503
    TopUp.objects.update(expires_at=timezone.now() - timedelta(hours=2))
    reconcile()
    top_up = {"id": str(TopUp.objects.get().id)}
    assert shop.see(top_up)["status"] == "expired"
    session = shop.session(top_up)
    assert shop.pay({"url": session.url}, method="us_bank_account") == 303
    shop.wait(top_up, "processing")
    shop.control(f"payment_intents/{shop.session(top_up).payment_intent}/complete", succeeded=True)
    shop.wait(top_up, "paid")
