"""Customers and cards that Stripe has deleted, replaced or renewed, whatever order we hear of it in.

After each test the ledger must be right.
"""

from uuid import UUID

import pytest

from billing.models import AutomaticTopUp, Payer, StripeEvent, TopUp
from devstack import processes
from marketplace.maintenance import tasks
from tests.marketplace.shops import (
    arrives,
    charged,
    heard,
    reconcile,
    save_card,
    send,
    standing,
    switch_on,
)

pytestmark = pytest.mark.django_db(transaction=True)

SMALL = 10_000_000
MASTERCARD = "5555555555554444"


def payer():
    return Payer.objects.get()


def delete_customer(shop, lost=False):
    """Delete the customer at Stripe; return their id."""
    customer = payer().customer_id
    if lost:
        shop.fault("lose", "customer.deleted")
        shop.fault("lose", "payment_method.detached", count=10)
    shop.v1.customers.delete(customer)
    if not lost:
        assert processes.wait_until(lambda: not Payer.objects.filter(customer_id=customer).exists(), 15)
    return customer


def say(shop, client, kind, document, name):
    """An event that Stripe sends again in another form, or late."""
    event = {"id": f"evt_{name}", "object": "event", "type": kind, "data": {"object": document}}
    assert send(client, event).status_code == 200


def of_stripe(shop, card):
    return shop.v1.payment_methods.retrieve(card).to_dict(for_json=True)


# --- customers ---


@pytest.mark.parametrize("lost", [False, True], ids=["told", "not told"])
def test_after_a_customer_was_deleted_at_stripe_the_next_order_makes_another(shop, lost):
    shop.buy("small", save_card=True)
    for _ in range(2):
        dead = delete_customer(shop, lost)
        top_up = shop.buy("small", save_card=True)
        assert payer().customer_id != dead
    assert shop.pay(top_up) == 303
    shop.wait(top_up, "paid")
    assert shop.session(top_up).customer == payer().customer_id
    heard("payment_method.attached")
    assert processes.wait_until(lambda: payer().card.get("last4") == "4242", 15)


@pytest.mark.parametrize("lost", [False, True], ids=["told", "not told"])
def test_automatic_top_ups_are_ordered_anew_after_a_customer_was_deleted(shop, card, lost):
    delete_customer(shop, lost)
    tasks.keep_payments()
    seen = standing(shop)
    assert (seen["status"], seen["reason"], seen["card"], seen["pending"]) == ("off", "card_gone", None, None)
    save_card(shop, switch_on(shop))
    tasks.keep_payments()
    arrives(shop, SMALL)
    assert charged(shop) == [500]


@pytest.mark.parametrize("lost", [False, True], ids=["told", "not told"])
def test_automatic_top_ups_of_a_deleted_customer_can_be_stopped(shop, card, lost):
    delete_customer(shop, lost)
    assert shop.customer.delete("/v1/topups/automatic").status_code == 204
    assert standing(shop)["error"]["code"] == "not_found"
    assert [each.card_id for each in Payer.objects.all()] in ([], [""])


def test_an_order_for_another_card_heals_too(shop, card):
    delete_customer(shop, lost=True)
    page = switch_on(shop, new_card=True)
    assert page["status"] == "waiting_for_card"
    assert save_card(shop, page) != card


@pytest.mark.parametrize("lost", [False, True], ids=["told", "not told"])
def test_a_retry_goes_on_although_the_customer_of_the_first_try_was_deleted(shop, lost):
    shop.fault("error_after", "POST /v1/checkout/sessions")
    order = {"save_card": True, "Idempotency_Key": "k1"}
    assert shop.order("small", **order).status_code == 503
    delete_customer(shop, lost)
    top_up = shop.order("small", **order).json()
    assert shop.pay(top_up) == 303
    shop.wait(top_up, "paid")
    assert TopUp.objects.count() == 1


def test_a_retry_goes_on_although_what_it_asks_of_stripe_has_changed(shop):
    shop.fault("drop_after", "POST /v1/checkout/sessions")
    shop.fault("drop", "POST /v1/checkout/sessions")
    order = {"save_card": True, "Idempotency_Key": "k1"}
    assert shop.order("small", **order).status_code == 503
    delete_customer(shop)
    answers = [shop.order("small", **order) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [503, 201], "Stripe keeps the first request under its key"
    assert shop.pay(answers[1].json()) == 303
    shop.wait(answers[1].json(), "paid")


# --- cards ---


def test_an_older_card_heard_of_late_does_not_replace_a_newer_one(shop):
    reconcile()
    shop.fault("lose", "payment_method.attached")
    older = switch_on(shop)
    assert shop.pay({"url": older["card_url"]}) == 303
    newer = save_card(shop, switch_on(shop, new_card=True), MASTERCARD)
    assert reconcile()[1] == 1
    assert (standing(shop)["card"]["brand"], payer().card_id) == ("mastercard", newer)


def test_a_card_that_was_removed_before_we_heard_of_it_is_not_kept(shop):
    reconcile()
    shop.fault("lose", "payment_method.attached")
    assert shop.pay({"url": switch_on(shop)["card_url"]}) == 303
    (card,) = shop.v1.customers.payment_methods.list(payer().customer_id).data
    shop.v1.payment_methods.detach(card.id)
    heard("payment_method.detached")
    reconcile()
    seen = standing(shop)
    assert (seen["status"], seen["card"]) == ("waiting_for_card", None)


def test_an_older_word_of_a_card_does_not_replace_a_newer_one(shop, card, client):
    expired = of_stripe(shop, card)
    expired["card"] |= {"exp_month": 1, "exp_year": 2025}
    say(shop, client, "payment_method.updated", expired, "older")
    assert standing(shop)["card"]["exp_year"] == 2034
    tasks.keep_payments()
    arrives(shop, SMALL)


def test_a_card_that_replaced_another_is_not_replaced_by_it_when_it_is_removed(shop, card):
    other = save_card(shop, switch_on(shop, new_card=True), MASTERCARD)
    Payer.objects.update(card_created=payer().card_created + 1)  # saved in another second than the first
    assert standing(shop)["card"]["brand"] == "mastercard"
    shop.v1.payment_methods.detach(other)
    assert processes.wait_until(lambda: standing(shop)["reason"] == "card_gone", 15)
    assert standing(shop)["card"] is None
    tasks.keep_payments()
    assert charged(shop) == []


def test_while_stripe_cannot_be_asked_for_a_card_the_next_beat_asks_again(shop):
    page = switch_on(shop)
    shop.fault("error", "GET /v1/customers/*/payment_methods", count=2)
    assert shop.pay({"url": page["card_url"]}) == 303
    assert processes.wait_until(lambda: not shop.faults(), 15)
    heard("payment_method.attached")
    assert standing(shop)["status"] == "waiting_for_card"
    tasks.keep_payments()
    assert standing(shop)["status"] == "on"


def test_a_customer_of_whom_stripe_answers_with_an_error_each_time_hides_no_others_card(shop):
    Payer.objects.create(owner=UUID(int=1), customer_id="cus_broken", card_news="some")
    shop.fault("error", "GET /v1/customers/cus_broken/payment_methods", count=100)
    shop.fault("error", "GET /v1/customers/*/payment_methods", count=2)
    assert shop.pay({"url": switch_on(shop)["card_url"]}) == 303
    assert processes.wait_until(lambda: len(shop.faults()) == 1, 15)
    heard("payment_method.attached")
    tasks.keep_payments()
    assert standing(shop)["status"] == "on"
    assert Payer.objects.get(customer_id="cus_broken").card_news == "some"


def test_a_card_that_is_renewed_while_another_is_waited_for_switches_nothing_on(shop, card, client):
    assert switch_on(shop, new_card=True)["status"] == "waiting_for_card"
    say(shop, client, "payment_method.automatically_updated", of_stripe(shop, card), "renewed")
    assert (standing(shop)["status"], payer().card_news) == ("waiting_for_card", "")
    assert AutomaticTopUp.objects.get().card_url


def test_a_card_of_a_deleted_customer_heard_of_late_is_not_kept(shop, card, client):
    last_word = of_stripe(shop, card)
    delete_customer(shop)
    shop.buy("small", save_card=True)
    say(shop, client, "payment_method.attached", last_word, "late")
    assert (payer().card_id, StripeEvent.objects.filter(id="evt_late").exists()) == ("", True)
