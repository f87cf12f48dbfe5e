"""Automatic top-ups against the double of Stripe: cards that pay, refuse, ask and vanish, and what is lost on the way.

After each test the ledger must be right.
"""

import threading
from contextlib import contextmanager
from datetime import timedelta

import pytest
from django.db import connection
from django.utils import timezone

from billing.models import AutomaticTopUp, Payer, StripeEvent, TopUp
from billing.payments import automatic
from billing.payments.stripe import Stripe
from billing.prices import packs
from billing.tokens import wallets
from devstack import processes
from marketplace.identifiers import uuid7
from marketplace.maintenance import tasks
from tests.marketplace.shops import (
    AUTOMATIC,
    WHOLE_MEDIUM,
    arrives,
    charged,
    reconcile,
    save_card,
    spend,
    standing,
    switch_on,
)

pytestmark = pytest.mark.django_db(transaction=True)

SMALL = 10_000_000
POOR, LOST, ASKS = "4000000000009995", "4000000000009987", "4000002760003184"


def does(shop, card, number):
    shop.control(f"payment_methods/{card}", number=number)


def beat():
    tasks.keep_payments()


def wait_is_over(**changes):
    AutomaticTopUp.objects.update(retry_at=timezone.now() - timedelta(seconds=1), **changes)


# --- paying ---


def test_a_saved_card_buys_a_pack_when_tokens_run_low_and_no_more_than_the_cap_of_a_day(shop, alice):
    assert standing(shop)["error"]["code"] == "not_found"
    page = switch_on(shop)
    assert (page["status"], page["card"]) == ("waiting_for_card", None)
    beat()
    assert TopUp.objects.count() == 0
    save_card(shop, page)
    seen = standing(shop)
    assert (seen["card"]["last4"], seen["card_url"], seen["price"], seen["daily_cap"]) == (
        "4242",
        None,
        "5.00",
        "15.00",
    )
    for bought in (1, 2, 3):
        beat()
        arrives(shop, SMALL)
        beat()  # there is enough
        assert TopUp.objects.count() == bought
        spend(shop.customer, SMALL)
    beat()
    assert (charged(shop), shop.tokens) == ([500, 500, 500], 0)
    (newest, *_) = shop.customer.get("/v1/topups").json()["data"]
    assert (newest["automatic"], newest["status"], newest["failure"]) == (True, "paid", None)
    assert alice.get("/v1/topups/automatic").status_code == 404


def test_a_card_that_was_saved_while_paying_is_the_one(shop):
    page = switch_on(shop)
    top_up = shop.buy("medium", save_card=True)
    assert shop.pay(top_up) == 303
    shop.wait(top_up, "paid")
    assert processes.wait_until(lambda: standing(shop)["status"] == "on", 15)
    assert (standing(shop)["card"]["last4"], page["card"]) == ("4242", None)
    spend(shop.customer, WHOLE_MEDIUM)
    beat()
    arrives(shop, SMALL)


def test_two_beats_at_once_buy_once(shop, card):
    together = threading.Barrier(4)

    def run():
        together.wait()
        beat()
        connection.close()

    threads = [threading.Thread(target=run) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    beat()
    arrives(shop, SMALL)
    assert (charged(shop), TopUp.objects.count()) == ([500], 1)


@pytest.mark.parametrize("kind", ["duplicate", "lose"])
def test_a_webhook_that_comes_twice_or_never_credits_once(shop, card, kind):
    reconcile()
    shop.fault(kind, "payment_intent.succeeded")
    beat()
    if kind == "lose":
        assert (shop.tokens, standing(shop)["pending"]["status"]) == (0, "processing")
        beat()  # is not paid again meanwhile
        assert reconcile()[1] == 1
    arrives(shop, SMALL)
    assert (reconcile()[1], charged(shop), shop.tokens) == (0, [500], SMALL)


# --- Stripe is not there, or we were not ---


def test_a_process_that_dies_between_the_row_and_stripe_is_taken_over_by_the_next(shop, card):
    assert automatic.begin(shop.customer.account.id, uuid7())
    assert automatic.begin(shop.customer.account.id, uuid7()) is None
    beat()
    arrives(shop, SMALL)
    assert (charged(shop), TopUp.objects.count()) == ([500], 1)


@pytest.mark.parametrize("fault", ["error_after", "drop_after", "error"])
@pytest.mark.parametrize("call", ["POST /v1/payment_intents", "POST /v1/payment_intents/*/confirm"])
def test_whatever_stripe_fails_to_answer_the_card_is_charged_once(shop, card, fault, call):
    shop.fault(fault, call, count=2)
    for _ in range(4):
        beat()
    shop.heal()
    beat()
    arrives(shop, SMALL)
    assert (charged(shop), TopUp.objects.count()) == ([500], 1)


class StripeOfOneWhoDies(Stripe):
    """Whoever asks it for a payment dies once that is made."""

    @contextmanager
    def attempt(self, top_up):
        with super().attempt(top_up) as given:
            yield given
        raise KeyboardInterrupt


def test_a_process_that_dies_after_the_charge_charges_no_second_time(shop, card):
    shop.fault("lose", "payment_intent.succeeded")
    with pytest.raises(KeyboardInterrupt):
        automatic.run(StripeOfOneWhoDies(shop.client), uuid7, lambda owners: owners)
    assert (charged(shop), TopUp.objects.get().status) == ([500], "open")
    beat()
    assert standing(shop)["pending"]["status"] == "processing"
    reconcile()
    assert (charged(shop), shop.tokens) == ([500], SMALL)


# --- cards that do not pay ---


def test_a_declined_card_is_left_alone_for_longer_and_longer_and_then_for_good(shop, card):
    does(shop, card, POOR)
    pauses = []
    for tries in (1, 2, 3):
        beat()
        beat()
        assert (TopUp.objects.count(), standing(shop)["status"]) == (tries, "on")
        pauses.append(AutomaticTopUp.objects.get().retry_at - timezone.now())
        wait_is_over()
    assert pauses == sorted(pauses)
    beat()
    wait_is_over()
    beat()
    assert (standing(shop)["status"], standing(shop)["reason"]) == ("off", "card_declined")
    assert [row["failure"] for row in shop.customer.get("/v1/topups").json()["data"]] == ["insufficient_funds"] * 4
    assert (charged(shop), shop.tokens) == ([], 0)
    does(shop, card, "4242424242424242")
    assert switch_on(shop)["status"] == "on"
    beat()
    arrives(shop, SMALL)


def test_a_card_that_pays_again_is_forgiven(shop, card):
    does(shop, card, POOR)
    beat()
    does(shop, card, "4242424242424242")
    wait_is_over()
    beat()
    arrives(shop, SMALL)
    assert (AutomaticTopUp.objects.get().failures, standing(shop)["retry_at"]) == (0, None)


def test_a_lost_card_is_not_tried_again(shop, card):
    does(shop, card, LOST)
    beat()
    assert (standing(shop)["status"], standing(shop)["reason"]) == ("off", "card_declined")


def test_a_card_that_stripe_has_no_more_switches_top_ups_off(shop, card):
    shop.v1.payment_methods.detach(card)
    assert processes.wait_until(lambda: standing(shop)["reason"] == "card_gone", 15)
    assert standing(shop)["card"] is None
    assert switch_on(shop)["status"] == "waiting_for_card"


def test_a_card_whose_end_nobody_told_us_of_is_found_to_be_gone(shop, card):
    shop.fault("lose", "payment_method.detached")
    shop.v1.payment_methods.detach(card)
    beat()
    seen = standing(shop)
    assert (seen["status"], seen["reason"], seen["card"], seen["pending"]) == ("off", "card_gone", None, None)


def test_an_expired_card_is_not_tried(shop):
    save_card(shop, switch_on(shop), expiry="01/25")
    beat()
    assert (standing(shop)["reason"], TopUp.objects.count()) == ("card_expired", 0)


# --- banks that ask ---


def test_a_bank_that_asks_for_the_customer_gets_them_by_a_page_and_the_top_up_is_paid_there(shop, card):
    does(shop, card, ASKS)
    beat()
    beat()
    pending = standing(shop)["pending"]
    assert (pending["status"], TopUp.objects.count()) == ("open", 1)
    assert shop.pay(pending) == 303
    shop.wait(pending, "paid")
    assert (shop.tokens, charged(shop)) == (SMALL, [500])
    spend(shop.customer, SMALL)
    assert processes.wait_until(lambda: Payer.objects.get().card_id != card, 15)  # paid there, it is the saved one
    beat()
    arrives(shop, SMALL)


def test_a_page_that_nobody_pays_counts_as_a_refusal(shop, card):
    does(shop, card, ASKS)
    beat()
    shop.v1.checkout.sessions.expire(shop.session(standing(shop)["pending"]).id)
    assert processes.wait_until(lambda: standing(shop)["pending"] is None, 15)
    (row,) = shop.customer.get("/v1/topups").json()["data"]
    assert (row["status"], row["failure"], shop.tokens) == ("expired", "authentication_required", 0)
    assert standing(shop)["retry_at"]


# --- who gets none ---


def test_a_frozen_account_buys_nothing_by_itself(shop, card):
    beat()
    arrives(shop, SMALL)
    spend(shop.customer, SMALL)
    shop.control("disputes", payment_intent=TopUp.objects.get().payment_intent)
    assert processes.wait_until(lambda: shop.customer.get("/v1/balance").json()["frozen"], 15)
    beat()
    assert TopUp.objects.count() == 1


def test_one_that_was_begun_before_the_account_was_frozen_or_stopped_is_not_paid(shop, card):
    assert automatic.begin(shop.customer.account.id, uuid7())
    assert shop.customer.delete("/v1/topups/automatic").status_code == 204
    assert (standing(shop)["error"]["code"], TopUp.objects.get().status) == ("not_found", "expired")
    beat()
    assert (charged(shop), shop.tokens) == ([], 0)
    assert shop.v1.customers.payment_methods.list(Payer.objects.get().customer_id).data == []


def test_a_closed_account_and_a_pack_with_other_terms_buy_nothing(shop, card):
    account = shop.customer.account
    account.is_active = False
    account.save()
    beat()
    assert TopUp.objects.count() == 0
    account.is_active = True
    account.save()
    packs.publish("small", 9_000_000, 0, {"eur": 900})
    beat()
    assert (standing(shop)["status"], standing(shop)["reason"], TopUp.objects.count()) == ("off", "pack_changed", 0)


def test_one_account_that_cannot_buy_holds_up_no_other(alice, shop, card):
    mine = AutomaticTopUp.objects.get()
    broken = {"customer_id": "cus_x", "card_id": "pm_x", "card": {}}  # of which nobody knows when it expires
    Payer.objects.create(owner=alice.account.id, **broken)
    terms = {"pack": mine.pack, "currency": "eur", "threshold": 10**9, "daily_cap_minor": 500, "order": mine.order}
    AutomaticTopUp.objects.create(owner=alice.account.id, status="on", **terms)
    assert automatic.due()[0] == alice.account.id
    beat()
    arrives(shop, SMALL)


def test_enough_tokens_buy_none(shop, card):
    wallets.grant(shop.customer.account.id, 500_000, "just enough")
    beat()
    assert TopUp.objects.count() == 0


@pytest.mark.parametrize(
    ("change", "param", "code"),
    [
        ({"pack": "huge"}, "pack", "unknown_pack"),
        ({"currency": "xxx"}, "currency", "unknown_currency"),
        ({"daily_cap": "4.99"}, "daily_cap", "cap_below_price"),
        ({"daily_cap": "5.001"}, "daily_cap", "invalid_value"),
        ({"daily_cap": 15}, "daily_cap", "invalid_value"),
        ({"threshold": "0"}, "threshold", "invalid_value"),
    ],
)
def test_an_order_that_cannot_be_is_refused(shop, change, param, code):
    refusal = shop.customer.put("/v1/topups/automatic", {**AUTOMATIC, **change})
    assert refusal.status_code == 422
    assert (refusal.json()["error"]["param"], refusal.json()["error"]["code"]) == (param, code)
    assert not AutomaticTopUp.objects.exists()


def test_a_card_of_somebody_else_on_the_same_stripe_account_is_none_of_ours(shop):
    stranger = shop.v1.customers.create({"email": "eve@example.com"})
    shop.v1.payment_methods.attach("pm_card_visa", {"customer": stranger.id})
    assert processes.wait_until(lambda: StripeEvent.objects.filter(type="payment_method.attached").exists(), 15)
    assert not Payer.objects.exists()


def test_what_was_paid_by_the_page_and_by_the_card_is_given_back_once(shop, card):
    does(shop, card, ASKS)
    beat()
    pending = standing(shop)["pending"]
    assert shop.pay(pending) == 303
    shop.wait(pending, "paid")
    assert processes.wait_until(lambda: Payer.objects.get().card_id != card, 15)  # paid there, it is the saved one
    terms = {"amount": 500, "currency": "eur", "customer": Payer.objects.get().customer_id, "confirm": True}
    ours = {"top_up": pending["id"], "automatic": "true"}
    shop.v1.payment_intents.create(
        {**terms, "payment_method": Payer.objects.get().card_id, "off_session": True, "metadata": ours}
    )
    assert processes.wait_until(lambda: sum(refund.amount for refund in shop.v1.refunds.list().data) == 500, 15)
    assert (shop.tokens, shop.see(pending)["status"], charged(shop)) == (SMALL, "paid", [500, 500])
