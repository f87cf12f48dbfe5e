"""A key makes a request happen once, and its answer come again byte for byte."""

import threading
import time
import urllib.error
import urllib.parse
import urllib.request

import pytest
import stripe

from tests.devstack.stripe.doubles import KEY


def post(double, path, key=None, **params):
    """Status, headers and body as they came."""
    headers = {"Authorization": f"Bearer {KEY}"} | ({"Idempotency-Key": key} if key else {})
    data = urllib.parse.urlencode(params).encode()
    try:
        answer = urllib.request.urlopen(urllib.request.Request(f"{double.url}{path}", data, headers), timeout=10)
    except urllib.error.HTTPError as error:
        answer = error
    with answer:
        return answer.status, answer.headers, answer.read()


ORDER = {
    "amount": 500,
    "currency": "usd",
    "payment_method": "pm_card_visa",
    "confirm": "true",
    "automatic_payment_methods[allow_redirects]": "never",
    "automatic_payment_methods[enabled]": "true",
}


@pytest.mark.parametrize(("method", "status"), [("pm_card_visa", 200), ("pm_card_chargeDeclined", 402)])
def test_the_same_request_gets_the_same_bytes(double, method, status):
    first = post(double, "/v1/payment_intents", "k1", **ORDER | {"payment_method": method})
    again = post(double, "/v1/payment_intents", "k1", **ORDER | {"payment_method": method})
    assert (first[0], again[0]) == (status, status)
    assert first[2] == again[2]
    assert (first[1]["Idempotent-Replayed"], again[1]["Idempotent-Replayed"]) == (None, "true")
    assert again[1]["Original-Request"] == first[1]["Request-Id"] != again[1]["Request-Id"]
    assert len(double.v1.charges.list().data) == 1
    assert double.v1.events.list().data[0].request.idempotency_key == "k1"


def test_a_key_is_for_one_request_only(double):
    post(double, "/v1/customers", "k", email="a@example.com")
    with pytest.raises(stripe.IdempotencyError, match="same parameters") as refusal:
        double.v1.customers.create({"email": "b@example.com"}, {"idempotency_key": "k"})
    assert refusal.value.http_status == 400
    with pytest.raises(stripe.IdempotencyError, match="same endpoint"):
        double.v1.products.create({"name": "Pack"}, {"idempotency_key": "k"})
    assert [each.email for each in double.v1.customers.list().data] == ["a@example.com"]


def test_a_key_in_use_is_refused_until_the_answer(double):
    double.control("faults", kind="slow", match="POST /v1/customers", seconds=1.5)
    answers = []
    slow = threading.Thread(target=lambda: answers.append(post(double, "/v1/customers", "k", email="a@example.com")))
    slow.start()
    time.sleep(0.5)
    status, headers, body = post(double, "/v1/customers", "k", email="a@example.com")
    assert status == 409
    assert headers["Stripe-Should-Retry"] == "true"
    assert b"idempotency_key_in_use" in body
    slow.join()
    assert post(double, "/v1/customers", "k", email="a@example.com")[2] == answers[0][2]
    assert len(double.v1.customers.list().data) == 1


def test_what_was_refused_before_it_began_is_not_remembered(double):
    assert post(double, "/v1/payment_intents", "k", amount="ten", currency="usd")[0] == 400
    assert post(double, "/v1/payment_intents", "k", **ORDER)[0] == 200


def test_what_was_refused_once_it_had_begun_is_remembered(double):
    assert post(double, "/v1/refunds", "k", charge="ch_none")[0] == 400
    assert post(double, "/v1/refunds", "k", charge="ch_none")[1]["Idempotent-Replayed"] == "true"


def test_keys_are_kept_for_a_day_and_have_at_most_255_characters(double):
    post(double, "/v1/customers", "k" * 255, email="a@example.com")
    double.control("advance", seconds=23 * 3600)
    assert post(double, "/v1/customers", "k" * 255, email="a@example.com")[1]["Idempotent-Replayed"] == "true"
    double.control("advance", seconds=2 * 3600)
    post(double, "/v1/customers", "k" * 255, email="a@example.com")
    assert len(double.v1.customers.list().data) == 2
    assert post(double, "/v1/customers", "k" * 256, email="a@example.com")[0] == 400


def test_a_key_answers_with_what_was_deleted_since_until_it_is_forgotten(double):
    order = {"email": "a@example.com"}
    key = {"idempotency_key": "customer"}
    first = double.v1.customers.create(order, key)
    double.v1.customers.delete(first.id)
    assert double.v1.customers.create(order, key).id == first.id
    double.control("advance", seconds=24 * 3600)
    assert double.v1.customers.create(order, key).id != first.id
