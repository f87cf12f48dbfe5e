"""Automatic top-ups that end before they were paid, or so it seems: what Stripe may have charged is never forgotten.

After each test the ledger must be right.
"""

import threading
from contextlib import contextmanager
from datetime import timedelta

import pytest
from django.db import connection
from django.utils import timezone

from billing.models import AutomaticTopUp, Pack, Payer, TopUp
from billing.payments import automatic
from billing.payments.stripe import Stripe
from billing.tokens import debts
from devstack import processes
from marketplace.identifiers import uuid7
from marketplace.maintenance import tasks
from tests.marketplace.shops import (
    arrives,
    charged,
    heard,
    reconcile,
    save_card,
    send,
    spend,
    standing,
    switch_on,
)

pytestmark = pytest.mark.django_db(transaction=True)

SMALL = 10_000_000
POOR, ASKS, VISA = "4000000000009995", "4000002760003184", "4242424242424242"
STATUS = TopUp.Status


class StripeOfOneWhoDies(Stripe):
    """Whoever asks it for a payment dies once that is made."""

    @contextmanager
    def attempt(self, row):
        with super().attempt(row) as given:
            yield given
        raise KeyboardInterrupt


def beat():
    tasks.keep_payments()


def intents(shop):
    """The states of the customer's payments at Stripe, by the top-ups that they are for."""
    found = [shop.v1.payment_intents.retrieve(row.payment_intent) for row in TopUp.objects.exclude(payment_intent="")]
    return [intent.status for intent in found]


def is_charged_unheard(shop):
    """The card is charged, but the answer and the event are lost."""
    shop.fault("lose", "payment_intent.succeeded")
    with pytest.raises(KeyboardInterrupt):
        automatic.run(StripeOfOneWhoDies(shop.client), uuid7, lambda owners: owners)
    assert (charged(shop), TopUp.objects.get().status) == ([500], "open")


def is_begun(shop):
    """A payment is made at Stripe, but Stripe fails before it is confirmed."""
    shop.fault("error", "POST /v1/payment_intents/*/confirm", count=2)
    beat()
    assert (intents(shop), TopUp.objects.get().status) == (["requires_confirmation"], "open")
    shop.heal()


# --- what ends a top-up that was begun; each returns how it is undone ---


def stopped(shop):
    assert shop.customer.delete("/v1/topups/automatic").status_code == 204
    return lambda: save_card(shop, switch_on(shop, daily_cap="5.00"))


def frozen(shop):
    shop.paid("small")
    spend(shop.customer, shop.tokens)
    shop.control("disputes", payment_intent=TopUp.objects.get(automatic=False).payment_intent)
    assert processes.wait_until(lambda: shop.customer.get("/v1/balance").json()["frozen"], 15)

    def undo():
        for debt in debts.of(shop.customer.account.id):
            debts.waive(debt.id, "goodwill")

    return undo


def closed(shop):
    account = shop.customer.account

    def is_active(value):
        account.is_active = value
        account.save()

    is_active(False)
    return lambda: is_active(True)


def late(shop):
    TopUp.objects.filter(automatic=True).update(expires_at=timezone.now() - timedelta(days=1))
    return lambda: None


def without_card(shop):
    shop.v1.payment_methods.detach(Payer.objects.get().card_id)
    assert processes.wait_until(lambda: standing(shop)["reason"] == "card_gone", 15)
    return lambda: save_card(shop, switch_on(shop, daily_cap="5.00"))


def another_card(shop):
    page = switch_on(shop, new_card=True, daily_cap="5.00")
    assert page["status"] == "waiting_for_card"
    return lambda: save_card(shop, page)


ENDS = pytest.mark.parametrize("end", [stopped, frozen, closed, late, without_card, another_card])


@ENDS
def test_what_was_charged_before_it_was_stopped_counts_and_is_credited(shop, card, end):
    AutomaticTopUp.objects.update(daily_cap_minor=500)
    is_charged_unheard(shop)
    undo = end(shop)
    beat()
    assert TopUp.objects.get(automatic=True).status == STATUS.PROCESSING, "it was paid, and is not written off"
    undo()
    beat()
    assert standing(shop)["pending"]["status"] == "processing"
    before = shop.tokens
    reconcile()
    assert shop.tokens == before + SMALL
    spend(shop.customer, shop.tokens)
    beat()
    assert TopUp.objects.filter(automatic=True).count() == 1
    assert standing(shop)["spent"] == "5.00"


@ENDS
def test_what_was_not_charged_yet_never_is(shop, card, end):
    is_begun(shop)
    end(shop)
    beat()
    begun = TopUp.objects.get(automatic=True)
    assert (begun.status, begun.paid_at) == (STATUS.EXPIRED, None)
    assert shop.v1.payment_intents.retrieve(begun.payment_intent).status == "canceled"
    assert shop.tokens == 0


@pytest.mark.parametrize(
    ("before", "change"),
    [
        ({"pack": "medium", "daily_cap": "20.00"}, {"daily_cap": "5.00"}),
        ({"daily_cap": "20.00"}, {"pack": "medium", "daily_cap": "20.00"}),
        ({"daily_cap": "15.00"}, {"currency": "usd", "daily_cap": "15.00"}),
    ],
)
def test_what_was_begun_is_not_charged_once_the_customer_has_ordered_something_else(shop, card, before, change):
    switch_on(shop, **before)
    is_begun(shop)
    switch_on(shop, **change)
    begun = TopUp.objects.get()
    assert (begun.status, charged(shop), intents(shop)) == (STATUS.EXPIRED, [], ["canceled"])


def test_a_cap_that_was_lowered_holds_for_what_was_begun_too(shop, card):
    is_begun(shop)
    bought(shop, timedelta(hours=1), timedelta(hours=1))
    switch_on(shop, daily_cap="5.00")
    beat()
    assert (charged(shop), standing(shop)["spent"], standing(shop)["pending"]) == ([], "5.00", None)


@ENDS
def test_while_stripe_cannot_be_asked_it_may_still_be_paid(shop, card, end):
    AutomaticTopUp.objects.update(daily_cap_minor=500)
    is_charged_unheard(shop)
    undo = end(shop) if end is not stopped else lambda: None
    shop.fault("drop", "* /v1/payment_intents/*", count=100)
    if end is stopped:
        assert shop.customer.delete("/v1/topups/automatic").status_code == 503
    beat()
    assert TopUp.objects.get(automatic=True).status == STATUS.OPEN
    assert reconcile()[1], "the event that was lost"
    assert TopUp.objects.get(automatic=True).status == STATUS.PAID
    shop.heal()
    undo()
    if shop.tokens:  # they have not paid a debt
        spend(shop.customer, shop.tokens)
    beat()
    assert TopUp.objects.filter(automatic=True).count() == 1


def test_one_that_ends_while_it_is_being_made_at_stripe_is_never_confirmed(shop, card):
    shop.fault("slow", "POST /v1/payment_intents", seconds=2)

    def run():
        beat()
        connection.close()

    slow = threading.Thread(target=run)
    slow.start()
    assert processes.wait_until(lambda: TopUp.objects.exists() and not shop.faults(), 15)
    try:
        stopped(shop)
        assert TopUp.objects.get().status == "expired"
    finally:
        slow.join()
    assert (charged(shop), TopUp.objects.get().status, TopUp.objects.get().payment_intent) == ([], "expired", "")


def test_the_page_where_the_bank_asks_closes_when_top_ups_are_stopped(shop, card):
    shop.control(f"payment_methods/{card}", number=ASKS)
    beat()
    pending = standing(shop)["pending"]
    assert pending["failure"] == "authentication_required"
    assert shop.customer.delete("/v1/topups/automatic").status_code == 204
    assert shop.pay(pending) == 410
    assert (shop.see(pending)["status"], charged(shop)) == ("expired", [])


def test_the_page_where_the_bank_asks_closes_when_the_card_is_removed(shop, card):
    shop.control(f"payment_methods/{card}", number=ASKS)
    beat()
    pending = standing(shop)["pending"]
    beat()
    assert shop.see(pending)["url"]
    without_card(shop)
    beat()
    assert (shop.pay(pending), shop.see(pending)["status"]) == (410, "expired")


def test_a_page_that_was_paid_before_top_ups_were_stopped_is_credited(shop, card):
    shop.control(f"payment_methods/{card}", number=ASKS)
    beat()
    pending = standing(shop)["pending"]
    shop.fault("lose", "checkout.session.completed")
    assert shop.pay(pending) == 303
    assert shop.customer.delete("/v1/topups/automatic").status_code == 204
    assert shop.see(pending)["status"] == "processing"
    reconcile()
    assert (shop.see(pending)["status"], shop.tokens) == ("paid", SMALL)


def test_a_declined_payment_is_canceled_at_stripe_too(shop, card):
    shop.control(f"payment_methods/{card}", number=POOR)
    beat()
    assert (intents(shop), TopUp.objects.get().failure) == (["canceled"], "insufficient_funds")
    assert standing(shop)["retry_at"]


def test_a_decline_counts_although_the_process_died_before_it_was_written_down(shop, card):
    shop.control(f"payment_methods/{card}", number=POOR)
    with pytest.raises(KeyboardInterrupt):
        automatic.run(StripeOfOneWhoDies(shop.client), uuid7, lambda owners: owners)
    assert (intents(shop), TopUp.objects.get().status) == (["canceled"], "open")
    beat()
    assert (TopUp.objects.get().status, TopUp.objects.get().failure) == ("failed", "insufficient_funds")
    assert standing(shop)["retry_at"]


def test_a_payment_that_stripe_does_not_have_is_made_anew(shop, card):
    is_begun(shop)
    TopUp.objects.update(payment_intent="pi_of_another_account")
    beat()
    assert TopUp.objects.get().status == "expired"
    beat()
    arrives(shop, SMALL)
    assert charged(shop) == [500]


def test_a_payment_begun_with_a_card_that_was_replaced_is_made_with_the_new_one(shop, card):
    is_begun(shop)
    page = switch_on(shop, new_card=True)
    other = save_card(shop, page)
    assert other != card
    beat()
    assert (intents(shop), charged(shop)) == (["canceled"], [])
    beat()
    arrives(shop, SMALL)
    assert [shop.v1.payment_intents.retrieve(row.payment_intent).payment_method
            for row in TopUp.objects.filter(status="paid")] == [other]  # fmt: skip


# --- payments that take a day ---


@pytest.fixture
def waiting(shop):
    """An automatic top-up whose payment takes a day; the payment."""
    save_card(shop, switch_on(shop), "4000003560000123")
    beat()
    assert standing(shop)["pending"]["status"] == "processing"
    return TopUp.objects.get().payment_intent


def test_a_payment_that_takes_a_day_is_waited_for_and_counts(shop, waiting):
    assert standing(shop)["spent"] == "5.00"
    beat()
    shop.control(f"payment_intents/{waiting}/complete", succeeded=True)
    arrives(shop, SMALL)
    assert (TopUp.objects.count(), charged(shop)) == (1, [500])


def test_a_payment_that_takes_a_day_and_fails_counts_as_a_refusal(shop, waiting):
    shop.control(f"payment_intents/{waiting}/complete", succeeded=False)
    assert processes.wait_until(lambda: standing(shop)["retry_at"], 15)
    assert (TopUp.objects.get().status, standing(shop)["spent"]) == ("failed", "0.00")


def test_a_payment_that_takes_a_day_and_is_canceled_at_stripe_ends(shop, waiting):
    shop.v1.payment_intents.cancel(waiting)
    assert processes.wait_until(lambda: standing(shop)["pending"] is None, 15)
    assert (TopUp.objects.get().status, standing(shop)["retry_at"], charged(shop)) == ("expired", None, [])


# --- the cap ---


def bought(shop, paid_before, begun_before):
    """An automatic top-up of long ago."""
    now = timezone.now()
    TopUp.objects.create(
        id=uuid7(), owner=shop.customer.account.id, pack=Pack.objects.get(name="small", active=True), currency="eur",
        price_minor=500, automatic=True, order={}, status=STATUS.PAID, payment_intent="pi_long_ago",
        created_at=now - begun_before, expires_at=now, paid_at=now - paid_before,
    )  # fmt: skip
    return now - paid_before


def test_the_cap_counts_from_when_a_top_up_was_paid_and_says_when_the_next_one_may_be(shop):
    paid_at = bought(shop, timedelta(minutes=70), timedelta(hours=24, minutes=1))
    save_card(shop, switch_on(shop, daily_cap="5.00"))
    beat()
    assert TopUp.objects.count() == 1
    seen = standing(shop)
    assert (seen["status"], seen["spent"], seen["pending"]) == ("on", "5.00", None)
    assert seen["capped_until"][:19] == (paid_at + timedelta(hours=24)).strftime("%Y-%m-%dT%H:%M:%S")
    seen = switch_on(shop, daily_cap="10.00")
    assert (seen["capped_until"], seen["spent"]) == (None, "5.00")
    beat()
    arrives(shop, SMALL)
    assert (standing(shop)["capped_until"], standing(shop)["spent"]) == (None, "10.00")
    spend(shop.customer, SMALL)
    assert standing(shop)["capped_until"]


def test_a_top_up_paid_more_than_a_day_ago_counts_no_more(shop):
    bought(shop, timedelta(hours=24, minutes=1), timedelta(hours=47))
    save_card(shop, switch_on(shop, daily_cap="5.00"))
    assert (standing(shop)["spent"], standing(shop)["capped_until"]) == ("0.00", None)
    beat()
    arrives(shop, SMALL)


# --- events out of order ---


def event(kind, document, name):
    return {"id": f"evt_{name}", "object": "event", "type": kind, "data": {"object": document}}


def test_a_late_word_of_the_first_try_does_not_end_the_payment_that_is_under_way(shop, card, client):
    shop.control(f"payment_methods/{card}", number=ASKS)
    shop.fault("lose", "payment_intent.payment_failed")
    beat()
    pending = standing(shop)["pending"]
    refused = shop.v1.payment_intents.retrieve(TopUp.objects.get().payment_intent).to_dict(for_json=True)
    assert shop.pay(pending, method="us_bank_account") == 303
    shop.wait(pending, "processing")
    assert send(client, event("payment_intent.payment_failed", refused, "late")).status_code == 200
    other = {"id": "cs_test_other", "client_reference_id": pending["id"]}
    for kind in ("expired", "async_payment_failed"):
        assert send(client, event(f"checkout.session.{kind}", other, kind)).status_code == 200
    assert shop.see(pending)["status"] == "processing"
    beat()
    assert TopUp.objects.count() == 1
    shop.control(f"payment_intents/{shop.session(pending).payment_intent}/complete", succeeded=True)
    shop.wait(pending, "paid")


def test_a_bank_debit_that_fails_counts_as_a_refusal(shop, card):
    shop.control(f"payment_methods/{card}", number=ASKS)
    beat()
    pending = standing(shop)["pending"]
    assert shop.pay(pending, method="us_bank_account") == 303
    shop.wait(pending, "processing")
    shop.control(f"payment_intents/{shop.session(pending).payment_intent}/complete", succeeded=False)
    shop.wait(pending, "failed")
    assert standing(shop)["retry_at"]
    heard("checkout.session.async_payment_failed")
