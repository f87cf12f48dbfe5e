"""Stripe fails on demand, and the SDK's retries find the truth."""

import pytest
import stripe
from test_stripe_idempotency import ORDER, post

from tests.devstack.stripe.doubles import paid


def retrying(double):
    addresses = {"api": double.url}
    http = stripe.RequestsClient(timeout=1.5)
    return stripe.StripeClient("sk_test_kiln", base_addresses=addresses, max_network_retries=2, http_client=http)


def buy(client):
    never = {"enabled": True, "allow_redirects": "never"}
    order = {"amount": 500, "currency": "usd", "payment_method": "pm_card_visa", "confirm": True}
    return client.v1.payment_intents.create({**order, "automatic_payment_methods": never})


@pytest.mark.parametrize("kind", ["error", "drop", "drop_after", "timeout_after"])
def test_the_sdk_gets_through_and_pays_once(double, kind):
    double.control("faults", kind=kind, match="POST /v1/payment_intents")
    assert buy(retrying(double)).status == "succeeded"
    assert len(double.v1.charges.list().data) == 1
    assert double.control("faults", method="GET") == []


def test_an_error_after_the_deed_is_repeated_although_the_deed_is_done(double):
    double.control("faults", kind="error_after", match="POST /v1/payment_intents")
    assert [post(double, "/v1/payment_intents", "k", **ORDER)[0] for _ in range(3)] == [500, 500, 500]
    assert len(double.v1.charges.list({"limit": 5}).data) == 1
    assert "payment_intent.succeeded" in double.events()


def test_an_error_before_the_deed_leaves_nothing_and_the_key_free(double):
    double.control("faults", kind="error", match="POST /v1/payment_intents")
    assert post(double, "/v1/payment_intents", "k", **ORDER)[0] == 500
    assert not double.v1.payment_intents.list().data
    assert post(double, "/v1/payment_intents", "k", **ORDER)[0] == 200


def test_a_rate_limit_is_429_for_as_often_as_asked(double):
    double.control("faults", kind="rate_limit", match="GET /v1/customers*", count=2)
    for _ in range(2):
        with pytest.raises(stripe.RateLimitError):
            double.v1.customers.list()
    double.v1.customers.list()
    paid(double)


def test_faults_can_be_taken_back_and_nonsense_is_refused(double):
    double.control("faults", kind="error", count=1000, probability=0.5)
    assert double.control("faults", method="DELETE") == {"cleared": 1}
    double.v1.balance.retrieve()
    with pytest.raises(Exception, match="400"):
        double.control("faults", kind="earthquake")
    with pytest.raises(Exception, match="400"):
        double.control("faults", kind="error", colour="red")
