"""Cards pay for Tokens: the double of Stripe as a process, the web server live, webhooks over HTTP.

After each test the ledger must be right.
"""

import json
import threading
import time
from html import escape
from uuid import uuid4

import pytest
import stripe
from django.core.management import CommandError
from django.db import connection

from billing.models import Reconciliation, StripeEvent, TopUp
from billing.prices import packs
from billing.tokens import wallets
from devstack import processes
from marketplace.maintenance import tasks
from tests.marketplace.shops import DECLINED, SECRET, STOLEN, WHOLE_MEDIUM, completed, reconcile, send, spend

pytestmark = pytest.mark.django_db(transaction=True)


# --- paying ---


def test_a_card_pays_for_a_pack_and_its_tokens_come(shop, alice):
    top_up = shop.buy()
    assert (top_up["status"], top_up["price"], top_up["pack"]["tokens"], shop.tokens) == ("open", "20.00", "40000", 0)
    assert shop.pay(top_up) == 303
    seen = shop.wait(top_up, "paid")
    assert (seen["url"], seen["refunded"], shop.tokens) == (None, "0.00", WHOLE_MEDIUM)
    lots = shop.customer.get("/v1/balance").json()["lots"]
    assert sorted((lot["kind"], lot["amount"], lot["price"]) for lot in lots) == [
        ("granted", "4000", None),
        ("paid", "40000", "20.00"),
    ]
    (charge,) = shop.v1.charges.list({"payment_intent": TopUp.objects.get(id=top_up["id"]).payment_intent}).data
    assert (charge.receipt_email, charge.metadata["top_up"]) == ("bob@example.com", top_up["id"])
    assert alice.get(f"/v1/topups/{top_up['id']}").status_code == 404
    assert [row["id"] for row in shop.customer.get("/v1/topups").json()["data"]] == [top_up["id"]]
    assert alice.get("/v1/topups").json()["data"] == []


def test_stripe_is_told_the_address_in_its_normal_form(shop):
    owner = shop.customer.account.owner
    owner.email = "Bob@MÜNCHEN.de"
    owner.save()
    assert shop.session(shop.buy()).customer_email == "bob@xn--mnchen-3ya.de"


def test_after_paying_the_customer_lands_on_a_page_that_says_so(shop, client):
    top_up = shop.buy()
    place = shop.session(top_up).success_url
    assert place == shop.session(top_up).cancel_url
    path = "/" + place.split("/", 3)[3]
    assert path == f"/topups/{top_up['id']}"
    waiting = client.get(path).content.decode()
    assert "44000 Tokens for 20.00 EUR" in waiting
    assert 'http-equiv="refresh"' in waiting
    assert escape(top_up["url"]) in waiting
    assert shop.pay(top_up) == 303
    shop.wait(top_up, "paid")
    paid = client.get(path).content.decode()
    assert "44000 Tokens are yours" in paid
    assert 'http-equiv="refresh"' not in paid
    assert "bob@example.com" not in waiting + paid
    assert "style-src 'self'; img-src 'self'" in client.get(path)["Content-Security-Policy"]
    assert client.get(f"/topups/{uuid4()}").status_code == 404


def test_a_declined_card_buys_nothing_and_another_one_does(shop):
    top_up = shop.buy("small")
    assert shop.pay(top_up, DECLINED) == 402
    assert (shop.see(top_up)["status"], shop.tokens) == ("open", 0)
    assert shop.pay(top_up) == 303
    shop.wait(top_up, "paid")
    assert shop.tokens == 10_000_000


@pytest.mark.parametrize(("succeeds", "status", "tokens"), [(True, "paid", 10_000_000), (False, "failed", 0)])
def test_a_bank_debit_is_credited_when_it_arrives_and_not_before(shop, succeeds, status, tokens):
    top_up = shop.buy("small", currency="usd")
    assert shop.pay(top_up, method="us_bank_account") == 303
    assert shop.wait(top_up, "processing")["url"] is None
    assert shop.tokens == 0
    shop.control(f"payment_intents/{shop.session(top_up).payment_intent}/complete", succeeded=succeeds)
    shop.wait(top_up, status)
    assert shop.tokens == tokens


def test_a_checkout_that_expires_is_said_to_be(shop):
    top_up = shop.buy()
    shop.v1.checkout.sessions.expire(shop.session(top_up).id)
    assert shop.wait(top_up, "expired")["url"] is None


def test_a_pack_that_changes_while_its_page_is_open_is_credited_as_it_was(shop):
    top_up = shop.buy("small")
    packs.publish("small", 1_000, 0, {"eur": 9_900})
    assert shop.pay(top_up) == 303
    shop.wait(top_up, "paid")
    assert shop.tokens == 10_000_000


# --- webhooks that come late, twice, in another order, or never ---


@pytest.mark.parametrize("kind", ["duplicate", "reorder", "delay"])
def test_webhooks_that_come_twice_or_late_or_in_another_order_credit_once(shop, kind):
    shop.fault(kind, "checkout.session.completed", seconds=0.5)
    top_up, _ = shop.paid("small")
    event = shop.completion(top_up)
    assert processes.wait_until(lambda: set(shop.deliveries(event)) == {"delivered"}, 15)
    assert len(shop.deliveries(event)) == (2 if kind == "duplicate" else 1)
    assert (shop.tokens, shop.see(top_up)["status"]) == (10_000_000, "paid")
    assert reconcile()[1] == 0


def test_the_same_event_in_many_hands_at_once_credits_once(shop):
    from django.test import Client

    top_up = shop.buy()
    event, answers = completed(top_up), []

    def deliver():
        answers.append(send(Client(), event).status_code)
        connection.close()

    threads = [threading.Thread(target=deliver) for _ in range(6)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert answers == [200] * 6
    assert shop.tokens == WHOLE_MEDIUM


def test_a_refund_that_is_heard_of_before_its_payment_takes_the_tokens_all_the_same(shop):
    shop.fault("lose", "checkout.session.completed")
    top_up = shop.buy()
    assert shop.pay(top_up) == 303
    shop.control("refunds", payment_intent=shop.session(top_up).payment_intent)
    assert processes.wait_until(lambda: StripeEvent.objects.filter(type="refund.created").exists(), 10)
    assert shop.see(top_up)["status"] == "open"
    shop.control(f"events/{shop.completion(top_up)}/deliver")
    shop.wait(top_up, "refunded")
    assert shop.tokens == 0


def test_lost_webhooks_are_found_and_acted_on_once(shop):
    reconcile()
    shop.fault("lose", "checkout.session.completed")
    shop.fault("lose", "refund.created")
    top_up = shop.buy()
    assert shop.pay(top_up) == 303
    shop.control("refunds", payment_intent=shop.session(top_up).payment_intent, amount=500)
    assert processes.wait_until(lambda: not shop.faults(), 15)
    assert (shop.see(top_up)["status"], shop.tokens) == ("open", 0)
    lines, repaired = reconcile()
    assert repaired == 2
    assert f"top-up {top_up['id']}: paid, Tokens credited" in lines[0]
    assert (shop.see(top_up)["status"], shop.tokens) == ("partially_refunded", 33_000_000)
    assert reconcile()[1] == 0


def test_a_credit_that_fails_is_answered_with_an_error_and_done_when_it_comes_again(shop, monkeypatch):
    from django.test import Client

    top_up, real = shop.buy(), wallets.grant
    event = completed(top_up)

    def broken(*_, **__):
        raise RuntimeError("the second half of the credit")

    monkeypatch.setattr(wallets, "grant", broken)
    assert send(Client(raise_request_exception=False), event).status_code == 500
    assert (shop.tokens, shop.see(top_up)["status"], StripeEvent.objects.count()) == (0, "open", 0)
    monkeypatch.setattr(wallets, "grant", real)
    assert send(Client(), event).status_code == 200
    assert (shop.tokens, shop.see(top_up)["status"]) == (WHOLE_MEDIUM, "paid")


def test_an_event_that_fails_stops_no_other_and_is_tried_again_by_the_next_night(shop, monkeypatch):
    reconcile()
    runs = Reconciliation.objects.count()
    for _ in range(2):
        shop.fault("lose", "checkout.session.completed")
    first, second = shop.buy("small"), shop.buy("medium")
    assert (shop.pay(first), shop.pay(second)) == (303, 303)
    real = wallets.purchase

    def half_broken(owner, amount, *rest, **more):
        if amount == 10_000_000:
            raise RuntimeError("not this one")
        return real(owner, amount, *rest, **more)

    monkeypatch.setattr(wallets, "purchase", half_broken)
    with pytest.raises(CommandError, match="1 events failed"):
        reconcile()
    assert (shop.tokens, Reconciliation.objects.count()) == (WHOLE_MEDIUM, runs)
    monkeypatch.setattr(wallets, "purchase", real)
    tasks.reconcile_payments()
    assert (shop.tokens, Reconciliation.objects.count()) == (WHOLE_MEDIUM + 10_000_000, runs + 1)


# --- money that goes back ---


def test_refunds_in_part_and_then_the_rest_take_their_share_of_the_tokens(shop):
    top_up, payment = shop.paid()
    shop.control("refunds", payment_intent=payment, amount=500)
    assert shop.wait(top_up, "partially_refunded")["refunded"] == "5.00"
    assert shop.tokens == 33_000_000
    shop.v1.refunds.create({"payment_intent": payment})
    assert shop.wait(top_up, "refunded")["refunded"] == "20.00"
    assert shop.tokens == 0


def test_a_refund_that_fails_brings_the_tokens_back(shop):
    top_up, payment = shop.paid()
    refund = shop.control("refunds", payment_intent=payment)
    shop.wait(top_up, "refunded")
    shop.control(f"refunds/{refund['id']}/fail")
    shop.wait(top_up, "paid")
    assert shop.tokens == WHOLE_MEDIUM


@pytest.mark.parametrize(("verdict", "status", "tokens"), [("lost", "disputed", 0), ("won", "paid", 6_000_000)])
def test_a_dispute_takes_what_is_left_and_what_was_spent_is_owed_until_it_is_won(shop, verdict, status, tokens):
    top_up, payment = shop.paid("small")
    spend(shop.customer, 4_000_000)
    dispute = shop.control("disputes", payment_intent=payment)
    shop.wait(top_up, "disputed")
    balance = shop.customer.get("/v1/balance").json()
    assert (balance["available"], balance["frozen"]) == ("0", True)
    assert [(debt["owed"], debt["price"]) for debt in balance["debts"]] == [("4000", "2.00")]
    wallets.grant(shop.customer.account.id, 5_000, "a present")
    job = shop.customer.post("/v1/jobs", {"prompt": "a red circle", "width": 128, "height": 128})
    assert (job.status_code, job.json()["error"]["code"]) == (402, "account_frozen")
    shop.control(f"disputes/{dispute['id']}/close", status=verdict)
    assert processes.wait_until(lambda: StripeEvent.objects.filter(type="charge.dispute.closed").exists(), 10)
    shop.wait(top_up, status)
    assert shop.tokens == tokens + 5_000
    assert shop.customer.get("/v1/balance").json()["frozen"] is (verdict == "lost")


def test_the_next_top_up_pays_what_is_owed_and_the_account_is_free_again(shop):
    top_up, payment = shop.paid("small")
    spend(shop.customer, 4_000_000)
    shop.control("refunds", payment_intent=payment)
    shop.wait(top_up, "refunded")
    assert shop.customer.get("/v1/balance").json()["frozen"] is True
    shop.paid("small")
    balance = shop.customer.get("/v1/balance").json()
    assert (balance["available"], balance["frozen"], balance["debts"]) == ("6000", False, [])


def test_a_stolen_card_is_refunded_before_it_is_disputed(shop):
    top_up = shop.buy()
    assert shop.pay(top_up, STOLEN) == 303
    shop.wait(top_up, "refunded")
    assert shop.tokens == 0


def test_money_of_others_on_the_same_stripe_account_is_none_of_ours(shop):
    order = {"amount": 1250, "currency": "usd", "payment_method": "pm_card_createIssuerFraudRecord", "confirm": True}
    never = {"enabled": True, "allow_redirects": "never"}
    intent = shop.v1.payment_intents.create({**order, "automatic_payment_methods": never})
    warned = StripeEvent.objects.filter(type="radar.early_fraud_warning.created")
    assert processes.wait_until(warned.exists, 10)
    assert shop.v1.charges.retrieve(intent.latest_charge).amount_refunded == 0


# --- what is believed ---


def test_only_what_stripe_signed_lately_is_believed(shop, client, settings):
    top_up = shop.buy()
    event, now = completed(top_up), int(time.time())
    good = stripe.WebhookSignature.generate_signature_header(json.dumps(event), SECRET, now)
    assert send(client, event, "whsec_other").status_code == 400
    assert send(client, event, moment=now - 301).status_code == 400
    assert send(client, event, signature="nonsense").status_code == 400
    refusal = send(client, event | {"id": "evt_other"}, signature=good)
    assert (refusal.status_code, refusal.json()["error"]["code"]) == (400, "invalid_signature")
    assert client.get("/webhooks/stripe").status_code == 405
    assert (shop.tokens, StripeEvent.objects.count()) == (0, 0)
    settings.STRIPE_WEBHOOK_SECRETS = ["whsec_new", SECRET]
    assert send(client, event, SECRET).status_code == 200
    assert send(client, event, "whsec_new").status_code == 200
    assert shop.tokens == WHOLE_MEDIUM
    settings.STRIPE_WEBHOOK_SECRETS = []
    assert send(client, event, "").status_code == 400


@pytest.mark.parametrize("change", [{"amount_total": 1999}, {"currency": "usd"}, {"id": "cs_other"}])
def test_a_payment_of_another_amount_is_not_credited_and_not_acknowledged(shop, client, change):
    top_up = shop.buy()
    client.raise_request_exception = False
    assert send(client, completed(top_up, **change)).status_code == 500
    assert (shop.tokens, StripeEvent.objects.count()) == (0, 0)


def test_a_session_that_is_complete_but_not_paid_credits_nothing(shop, client):
    top_up = shop.buy()
    assert send(client, completed(top_up, payment_status="unpaid", payment_intent=None)).status_code == 200
    assert (shop.tokens, shop.see(top_up)["status"]) == (0, "processing")


def test_events_that_are_nothing_to_us_are_acknowledged(shop, client):
    top_up = shop.buy()
    for foreign in (None, str(uuid4()), "order-17"):
        assert send(client, completed(top_up, client_reference_id=foreign)).status_code == 200
    assert send(client, {"id": "evt_1", "type": "customer.created", "data": {"object": {}}}).status_code == 200
    assert shop.tokens == 0


# --- Stripe is not there, or we were not ---


def test_stripe_reckons_taxes_and_asks_for_tax_ids_where_the_operator_wants_it(shop, settings):
    settings.STRIPE_TAX = settings.STRIPE_TAX_IDS = True
    top_up = shop.buy()
    session = shop.session(top_up)
    assert (session.automatic_tax.enabled, session.tax_id_collection.enabled) == (True, True)
    assert shop.pay(top_up) == 303
    shop.wait(top_up, "paid")


def test_the_same_key_opens_one_checkout_and_another_body_is_refused(shop):
    first = shop.order(Idempotency_Key="k1")
    again = shop.order(Idempotency_Key="k1")
    assert (again.json(), again.headers["Idempotent-Replayed"]) == (first.json(), "true")
    other = shop.order("small", Idempotency_Key="k1")
    assert (other.status_code, other.json()["error"]["code"]) == (422, "idempotency_key_reused")
    assert TopUp.objects.count() == 1


@pytest.mark.parametrize("kind", ["error", "drop"])
def test_when_stripe_does_not_answer_a_retry_opens_one_checkout(shop, kind):
    shop.fault(kind, "POST /v1/checkout/sessions", count=2)
    refusal = shop.order(Idempotency_Key="k1")
    assert (refusal.status_code, refusal.json()["error"]["code"]) == (503, "payments_unavailable")
    assert refusal.headers["Retry-After"]
    shop.heal()
    answer = shop.order(Idempotency_Key="k1")
    assert answer.status_code == 201, answer.content
    assert shop.session(answer.json()).url == answer.json()["url"]


def test_an_answer_of_stripe_that_is_lost_on_the_way_is_asked_for_again(shop):
    shop.fault("drop_after", "POST /v1/checkout/sessions")
    top_up = shop.buy()
    assert shop.session(top_up).url == top_up["url"]


def test_what_was_paid_is_credited_although_we_never_heard_of_its_checkout(shop):
    shop.fault("error_after", "POST /v1/checkout/sessions")
    assert shop.order().status_code == 503
    row = TopUp.objects.get()
    assert (row.session_id, row.status) == ("", "open")
    session = shop.session({"id": str(row.id)})
    assert shop.pay({"url": session.url}) == 303
    shop.wait({"id": str(row.id)}, "paid")
    assert shop.tokens == WHOLE_MEDIUM


def test_with_a_key_that_stripe_refuses_or_none_at_all_it_waits_for_one_that_works(shop, settings):
    key, order = settings.STRIPE_SECRET_KEY, {"Idempotency_Key": "until-it-works"}
    for wrong in ("sk_live_of_somebody", ""):
        settings.STRIPE_SECRET_KEY = wrong
        refusal = shop.order(**order)
        assert (refusal.status_code, refusal.json()["error"]["code"]) == (503, "payments_unavailable")
    settings.STRIPE_SECRET_KEY = key
    assert shop.order(**order).status_code == 201


@pytest.mark.parametrize(
    ("change", "param", "code"),
    [
        ({"pack": "huge"}, "pack", "unknown_pack"),
        ({"currency": "xxx"}, "currency", "unknown_currency"),
        ({"success_url": "javascript:alert(1)"}, "success_url", "invalid_value"),
        ({"amount": 1}, "amount", "unknown_field"),
    ],
)
def test_an_order_that_cannot_be_is_refused_and_leaves_nothing(shop, change, param, code):
    refusal = shop.order(**change)
    assert refusal.status_code == 422
    assert (refusal.json()["error"]["param"], refusal.json()["error"]["code"]) == (param, code)
    assert not TopUp.objects.exists()
