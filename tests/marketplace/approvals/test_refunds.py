"""Money back for unspent Tokens, by the operator, through the double of Stripe: Tokens first, once, whatever breaks."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from uuid import uuid4

import pytest
from django.contrib.auth.models import Permission
from django.db import IntegrityError, connection, transaction
from django.test import Client
from django.utils import timezone

from billing.errors import PaymentsRefused, PaymentsUnavailable
from billing.models import Clawback, Reversal, StripeEvent, TopUp
from billing.payments import refunds, stripe
from billing.payments.stripe import Stripe
from billing.prices import packs
from billing.tokens import lots, spending, wallets
from devstack import processes
from marketplace.accounts.models import Person
from marketplace.approvals import requests
from marketplace.approvals.acts import PaymentRefund
from marketplace.approvals.models import Request
from marketplace.approvals.requests import Refused
from marketplace.maintenance import tasks
from tests.marketplace.shops import WHOLE_MEDIUM, spend
from tests.threads import together

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def dora(settings):
    settings.REFUND_LIMITS = {"eur": 10_000}
    person = Person.objects.create_user("dora@example.com", is_staff=True)
    person.user_permissions.set(Permission.objects.filter(codename="ask_refund"))
    return Person.objects.get(pk=person.pk)


def refund(person, top_up, minor, request_id=None):
    return requests.ask(person, PaymentRefund(top_up["id"], minor, "eur"), "they moved away", request_id)


def heard(kind, count=1):
    assert processes.wait_until(lambda: StripeEvent.objects.filter(type=kind).count() >= count, 15)


def given_back(shop, payment):
    return [each.amount for each in shop.v1.refunds.list({"payment_intent": payment}).data]


def keep_requests_an_hour_later():
    requests.keep(timezone.now() + timedelta(hours=1))


def test_unspent_tokens_are_refunded_and_the_event_that_comes_back_takes_nothing_more(shop, dora):
    top_up, payment = shop.paid()
    done = refund(dora, top_up, 500)
    assert (done.status, done.outcome[:15]) == ("executed", "refunded as re_")
    heard("refund.created")
    assert (shop.tokens, given_back(shop, payment)) == (33_000_000, [500])
    assert (shop.see(top_up)["status"], shop.see(top_up)["refunded"]) == ("partially_refunded", "5.00")
    assert Reversal.objects.get().stripe_id == done.outcome.split()[-1]
    refund(dora, top_up, 1500)
    heard("refund.created", 2)
    assert (shop.tokens, shop.see(top_up)["status"]) == (0, "refunded")


def test_no_more_than_the_unspent_and_unheld_tokens_had_cost(shop, dora):
    top_up, payment = shop.paid("small")
    spend(shop.customer, 4_000_000)
    wallets.hold(shop.customer.account.id, 1_000_000, uuid4(), timedelta(hours=1))
    with pytest.raises(Refused, match=r"had cost 2\.50 EUR"):
        refund(dora, top_up, 251)
    assert (shop.tokens, given_back(shop, payment), Request.objects.count()) == (5_000_000, [], 0)
    assert refund(dora, top_up, 250).status == "executed"
    assert (shop.tokens, Clawback.objects.filter(settled_at=None).count()) == (0, 0)


def test_a_spent_bonus_leaves_no_debt(shop, dora):
    top_up, _ = shop.paid()
    spend(shop.customer, 4_000_000)
    assert refund(dora, top_up, 2000).status == "executed"
    heard("refund.created")
    balance = shop.customer.get("/v1/balance").json()
    assert (balance["available"], balance["frozen"], balance["debts"]) == ("0", False, [])


def test_refunds_at_the_same_moment_give_back_no_more_than_was_paid(shop, dora):
    top_up, payment = shop.paid("small")
    same = uuid4()
    found = together(6, lambda number: refund(dora, top_up, 200, same if number < 3 else None))
    assert {type(each) for each in found} == {Request, Refused}
    assert given_back(shop, payment) == [200, 200]
    assert (Request.objects.filter(status="executed").count(), shop.tokens) == (2, 2_000_000)


def test_the_operators_refund_and_one_in_the_dashboard_at_once_both_take_their_tokens(shop, dora):
    top_up, payment = shop.paid("small")

    def both(number):
        return shop.control("refunds", payment_intent=payment, amount=200) if number else refund(dora, top_up, 200)

    together(2, both)
    heard("refund.created", 2)
    assert (shop.tokens, sum(given_back(shop, payment))) == (2_000_000, 400)


def test_a_refund_and_somebody_else_at_the_wallet_never_wait_for_each_other(shop, dora):
    top_up, _ = shop.paid("small")
    owner = shop.customer.account.id
    with ThreadPoolExecutor(1) as pool:
        with transaction.atomic():
            spending.lock(owner)
            asked = pool.submit(together, 1, lambda _: refund(dora, top_up, 200).status)
            assert processes.wait_until(is_anybody_waiting, 15)
            lots.position(owner)
        assert asked.result() == ["executed"]


def is_anybody_waiting():
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_locks WHERE NOT granted")
        return cursor.fetchone()[0]


def test_the_same_form_sent_again_after_the_refund_says_what_became_of_it(shop, dora):
    top_up, payment = shop.paid("small")
    same = uuid4()
    assert [refund(dora, top_up, 500, same).status for _ in range(2)] == ["executed"] * 2
    dora.user_permissions.add(Permission.objects.get(codename="view_topup"))
    client = Client()
    client.force_login(dora)
    form = {"_form_submitted": "on", "request_id": str(same), "amount": "5.00", "reason": "they moved away"}
    answer = client.post(f"/admin/billing/topup/{top_up['id']}/refund/", form)
    assert "Done: refunded as re_" in client.get(answer.get("HX-Redirect", "/admin/")).content.decode()
    assert given_back(shop, payment) == [500]


class StripeThatTellsFirst(Stripe):
    """Gives back and tells of it by its event, but does not answer whoever asked."""

    def refund_amount(self, *given):
        super().refund_amount(*given)
        heard("refund.created")
        raise PaymentsRefused("the key was revoked meanwhile")


def test_a_refund_that_stripe_tells_of_before_its_answer_is_lost_is_done(shop):
    _, payment = shop.paid("small")
    refunds.take(TopUp.objects.get().id, 500, reversal := str(uuid4()))
    refunds.send(StripeThatTellsFirst(shop.client), reversal)
    assert (given_back(shop, payment), shop.tokens) == ([500], 0)


@pytest.mark.parametrize("kind", ["error", "drop", "error_after", "drop_after"])
def test_when_stripe_does_not_answer_the_money_goes_once_all_the_same(shop, dora, kind):
    top_up, payment = shop.paid("small")
    shop.fault(kind, "POST /v1/refunds", count=2)
    waiting = refund(dora, top_up, 500)
    assert shop.tokens == 0
    for _ in range(4):
        keep_requests_an_hour_later()
    waiting.refresh_from_db()
    assert (waiting.status, given_back(shop, payment), shop.tokens) == ("executed", [500], 0)


def test_a_refund_whose_process_did_not_finish_it_is_finished_by_the_next(shop, dora):
    top_up, payment = shop.paid("small")
    shop.fault("drop", "GET /v1/refunds", count=2)
    refund(dora, top_up, 500)
    assert shop.faults() == []
    assert (Request.objects.get().status, shop.tokens, given_back(shop, payment)) == ("approved", 0, [])
    tasks.keep_requests()
    assert Request.objects.get().status == "approved", "whoever asked may still be at it"
    keep_requests_an_hour_later()
    assert (Request.objects.get().status, given_back(shop, payment)) == ("executed", [500])


def test_a_refund_whose_key_stripe_has_forgotten_is_found_among_its_refunds(shop, dora):
    _, payment = shop.paid("small")
    refunds.take(TopUp.objects.get().id, 500, reversal := str(uuid4()))
    forgotten = {"payment_intent": payment, "amount": 500, "metadata": {"reversal": reversal}}
    made = shop.v1.refunds.create(forgotten)  # under another idempotency key than ours
    assert refunds.send(stripe.from_settings(), reversal) == made.id
    assert given_back(shop, payment) == [500]


def test_what_stripe_refuses_brings_the_tokens_back(shop, dora):
    top_up, payment = shop.paid()
    shop.fault("lose", "refund.created")
    shop.control("refunds", payment_intent=payment, amount=1800)  # nothing was heard of it, and 200 are left
    refunds.take(TopUp.objects.get().id, 500, reversal := str(uuid4()))
    assert shop.tokens == 33_000_000
    with pytest.raises(PaymentsRefused):
        refunds.send(stripe.from_settings(), reversal)
    assert (shop.tokens, shop.see(top_up)["status"], given_back(shop, payment)) == (WHOLE_MEDIUM, "paid", [1800])
    failed = refund(dora, top_up, 500)
    assert (failed.status, shop.tokens) == ("failed", WHOLE_MEDIUM)


def test_a_refund_that_fails_later_brings_the_tokens_back(shop, dora):
    top_up, _ = shop.paid("small")
    done = refund(dora, top_up, 500)
    heard("refund.created")
    shop.control(f"refunds/{done.outcome.split()[-1]}/fail")
    shop.wait(top_up, "paid")
    assert shop.tokens == 10_000_000


def test_a_refund_that_the_bank_sends_back_is_no_longer_called_executed(shop, dora):
    top_up, _ = shop.paid("small")
    done = refund(dora, top_up, 500)
    heard("refund.created")
    other = refund(dora, shop.paid("small")[0], 500)
    shop.control(f"refunds/{done.outcome.split()[-1]}/fail")
    assert processes.wait_until(lambda: Request.objects.get(id=done.id).status == "failed", 15)
    done.refresh_from_db()
    assert done.outcome.startswith("refunded as re_")
    assert "sent the money back" in done.outcome
    assert Request.objects.get(id=other.id).status == "executed"
    with pytest.raises(IntegrityError), transaction.atomic():
        Request.objects.filter(id=done.id).update(status="executed")


def test_one_that_is_sent_back_before_its_process_has_finished_fails_as_well(shop, dora):
    top_up, payment = shop.paid("small")
    shop.fault("drop_after", "POST /v1/refunds")
    shop.fault("drop", "POST /v1/refunds")
    waiting = refund(dora, top_up, 500)
    heard("refund.created")
    (made,) = shop.v1.refunds.list({"payment_intent": payment}).data
    shop.control(f"refunds/{made.id}/fail")
    heard("refund.failed")
    assert waiting.status == "approved"
    keep_requests_an_hour_later()
    waiting.refresh_from_db()
    assert (waiting.status, shop.tokens) == ("failed", 10_000_000)


@pytest.mark.parametrize(("end", "status", "tokens"), [("succeeded", "executed", 0), ("failed", "failed", 10_000_000)])
def test_a_refund_that_is_pending_at_first_takes_the_tokens_until_it_fails(shop, dora, end, status, tokens):
    top_up = shop.buy("small")
    assert shop.pay(top_up, "4000000000007726") == 303
    shop.wait(top_up, "paid")
    done = refund(dora, top_up, 500)
    heard("refund.created")
    assert (shop.tokens, done.status) == (0, "executed")
    shop.control(f"refunds/{done.outcome.split()[-1]}", status=end)
    heard("refund.updated")
    assert processes.wait_until(lambda: Request.objects.get(id=done.id).status == status, 15)
    assert shop.tokens == tokens
    shop.wait(top_up, "refunded" if end == "succeeded" else "paid")


def test_a_refund_that_only_claims_to_be_ours_takes_its_own_tokens(shop, dora):
    top_up, payment = shop.paid("small")
    ours = refund(dora, top_up, 200)
    heard("refund.created")
    shop.v1.refunds.create({"payment_intent": payment, "amount": 200, "metadata": {"reversal": str(ours.id)}})
    heard("refund.created", 2)
    assert (shop.tokens, Reversal.objects.count()) == (2_000_000, 2)


@pytest.mark.parametrize("key", ["", "sk_live_of_somebody"], ids=["none", "wrong"])
def test_without_a_key_that_works_it_waits(shop, dora, settings, key):
    top_up, _ = shop.paid("small")
    settings.STRIPE_SECRET_KEY = key
    assert refund(dora, top_up, 500).status == "approved"
    assert shop.tokens == 0
    with pytest.raises(PaymentsUnavailable):
        refunds.send(stripe.from_settings(), str(Request.objects.get().id))


def test_each_currency_has_a_limit_of_its_own_and_one_without_is_never_refunded_alone(shop, dora, settings):
    """A limit of 5,000 cents is none of 5,000 yen, and euros use up nothing of it."""
    settings.REFUND_LIMITS = {"eur": 1000, "jpy": 1500}
    packs.publish("world", 10_000_000, 0, {"eur": 2000, "jpy": 2000, "krw": 2000, "kwd": 5120})

    def ask(currency, minor):
        top_up = shop.buy("world", currency=currency)
        assert shop.pay(top_up) == 303
        shop.wait(top_up, "paid")
        return requests.ask(dora, PaymentRefund(top_up["id"], minor, currency), "they moved away").status

    asked = [("eur", 1000), ("jpy", 1000), ("jpy", 500), ("eur", 1), ("jpy", 1), ("krw", 1)]
    assert [ask(*each) for each in asked] == ["executed"] * 3 + ["pending"] * 3
    with pytest.raises(Refused, match=r"in steps of 0\.010 KWD"):
        ask("kwd", 1)
