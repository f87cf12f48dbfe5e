"""Payments without a page: by a saved card, with and without its owner."""

import base64
import urllib.error
import urllib.request

import pytest
import stripe

from tests.devstack.stripe.doubles import paid, session

SUCCEEDED = ["payment_intent.created", "charge.succeeded", "payment_intent.succeeded", "charge.updated"]


@pytest.fixture
def alice(double):
    return double.v1.customers.create({"email": "alice@example.com", "metadata": {"account": "a1"}})


def saved(double, customer, token):
    return double.v1.payment_methods.attach(token, {"customer": customer.id})


def test_a_saved_card_is_charged_without_its_owner(double, alice):
    card = saved(double, alice, "pm_card_visa")
    intent = paid(double, 2000, card.id, customer=alice.id, off_session=True, expand=["latest_charge", "customer"])
    assert (intent.status, intent.amount_received, intent.customer.email) == ("succeeded", 2000, "alice@example.com")
    assert (intent.latest_charge.amount, intent.latest_charge.payment_method) == (2000, card.id)
    assert double.events()[-4:] == SUCCEEDED
    assert double.v1.payment_intents.list({"customer": alice.id}).data[0].id == intent.id
    assert double.v1.charges.list({"payment_intent": intent.id}).data[0].id == intent.latest_charge.id


@pytest.mark.parametrize(
    ("token", "code", "decline_code"),
    [
        ("pm_card_chargeDeclined", "card_declined", "generic_decline"),
        ("pm_card_chargeDeclinedInsufficientFunds", "card_declined", "insufficient_funds"),
        ("pm_card_chargeDeclinedExpiredCard", "expired_card", None),
    ],
)
def test_a_refusal_says_why_and_names_the_payment(double, token, code, decline_code):
    with pytest.raises(stripe.CardError) as refusal:
        paid(double, method=token)
    error = refusal.value.error
    assert (refusal.value.http_status, error.code, getattr(error, "decline_code", None)) == (402, code, decline_code)
    intent = double.v1.payment_intents.retrieve(error.payment_intent.id)
    assert (intent.status, intent.last_payment_error.code) == ("requires_payment_method", code)
    charge = double.v1.charges.retrieve(intent.latest_charge)
    assert (charge.status, charge.paid, charge.failure_code) == ("failed", False, code)
    assert double.events() == ["payment_intent.created", "charge.failed", "payment_intent.payment_failed"]
    again = double.v1.payment_intents.confirm(intent.id, {"payment_method": "pm_card_visa"})
    assert again.status == "succeeded"


def test_a_saved_card_that_is_refused_later(double, alice):
    with pytest.raises(stripe.CardError):
        saved(double, alice, "pm_card_chargeDeclined")
    card = saved(double, alice, "pm_card_chargeCustomerFail")
    with pytest.raises(stripe.CardError):
        paid(double, method=card.id, customer=alice.id, off_session=True)


def test_the_bank_wants_the_owner_who_comes_later(double, alice, browser):
    card = saved(double, alice, "pm_card_authenticationRequired")
    with pytest.raises(stripe.CardError) as refusal:
        paid(double, method=card.id, customer=alice.id, off_session=True)
    error = refusal.value.error
    assert (error.code, error.decline_code) == ("authentication_required", "authentication_required")
    assert error.payment_method.id == card.id
    intent = error.payment_intent
    assert intent.status == "requires_payment_method"

    details = {"payment_method": card.id, "return_url": "https://kiln.example/back?a=1"}
    waiting = double.v1.payment_intents.confirm(intent.id, details)
    assert (waiting.status, waiting.next_action.type) == ("requires_action", "redirect_to_url")
    bank = waiting.next_action.redirect_to_url.url
    assert browser.open(bank.replace("_secret_", "_guessed_"))[0] == 404
    location = browser.open(bank, answer="yes")[2]
    assert location.startswith(f"https://kiln.example/back?a=1&payment_intent={intent.id}")
    assert location.endswith("redirect_status=succeeded")
    assert double.v1.payment_intents.retrieve(intent.id).status == "succeeded"
    assert browser.open(bank, answer="yes")[0] == 200, "nothing is left to answer"
    assert double.events().count("charge.succeeded") == 1


def test_a_card_is_set_up_with_its_owner_and_charged_without(double, alice, browser):
    order = {"customer": alice.id, "payment_method": "pm_card_authenticationRequiredOnSetup", "confirm": True}
    setup = double.v1.setup_intents.create({**order, "return_url": "https://kiln.example/back"})
    assert setup.status == "requires_action"
    browser.open(setup.next_action.redirect_to_url.url, answer="yes")
    setup = double.v1.setup_intents.retrieve(setup.id)
    assert setup.status == "succeeded"
    assert paid(double, 900, setup.payment_method, customer=alice.id, off_session=True).status == "succeeded"


def test_an_intent_is_paid_once_or_canceled_once(double):
    intent = paid(double)
    for refused in (double.v1.payment_intents.confirm, double.v1.payment_intents.cancel):
        with pytest.raises(stripe.InvalidRequestError) as refusal:
            refused(intent.id)
        assert refusal.value.code == "payment_intent_unexpected_state"
        assert refusal.value.error.payment_intent.id == intent.id
    waiting = double.v1.payment_intents.create({"amount": 500, "currency": "usd"})
    assert double.v1.payment_intents.cancel(waiting.id).status == "canceled"
    assert double.events()[-1] == "payment_intent.canceled"
    with pytest.raises(stripe.InvalidRequestError, match=r"a status of canceled\. Only a PaymentIntent with"):
        double.v1.payment_intents.cancel(waiting.id)


def test_a_deleted_customer_is_shown_but_not_used_and_their_page_cannot_be_paid(double, alice, browser):
    card = saved(double, alice, "pm_card_visa")
    page = session(double, customer=alice.id)
    intent = double.v1.payment_intents.create(
        {"amount": 500, "currency": "usd", "customer": alice.id, "payment_method": card.id}
    )
    double.v1.customers.delete(alice.id)
    assert double.v1.customers.retrieve(alice.id).deleted is True
    for use in (
        lambda: double.v1.customers.payment_methods.list(alice.id),
        lambda: session(double, customer=alice.id),
        lambda: double.v1.payment_intents.create({"amount": 500, "currency": "usd", "customer": alice.id}),
    ):
        with pytest.raises(stripe.InvalidRequestError) as refusal:
            use()
        assert refusal.value.code == "resource_missing"
    with pytest.raises(stripe.InvalidRequestError, match="detached from a Customer"):
        double.v1.payment_intents.confirm(intent.id, {"off_session": True})
    assert browser.open(page.url, number="4242424242424242", expiry="12/34", email="a@b.example")[0] == 404
    assert double.v1.payment_intents.cancel(intent.id).status == "canceled"


def test_cards_belong_to_their_customer_and_are_spent_without_one(double, alice):
    bob = double.v1.customers.create({"email": "bob@example.com"})
    card = saved(double, alice, "pm_card_visa")
    with pytest.raises(stripe.InvalidRequestError, match="The customer does not have a payment method"):
        paid(double, method=card.id, customer=bob.id)
    loose = double.v1.payment_methods.create({"type": "card", "card": {"token": "tok_visa"}})
    paid(double, method=loose.id)
    with pytest.raises(stripe.InvalidRequestError, match="may not be used again"):
        paid(double, method=loose.id)
    assert double.v1.payment_methods.detach(card.id).customer is None
    assert not double.v1.payment_methods.list({"customer": alice.id, "type": "card"}).data
    assert double.events()[-1] == "payment_method.detached"


def test_customers_are_found_changed_and_deleted(double, alice):
    changed = double.v1.customers.update(alice.id, {"name": "Alice", "metadata": {"account": "", "plan": "pro"}})
    assert (changed.name, changed.metadata.to_dict()) == ("Alice", {"plan": "pro"})
    assert [each.id for each in double.v1.customers.list({"email": "alice@example.com"}).data] == [alice.id]
    assert double.v1.customers.delete(alice.id).deleted
    assert double.v1.customers.retrieve(alice.id).deleted
    with pytest.raises(stripe.InvalidRequestError, match="No such customer"):
        paid(double, customer=alice.id)
    event = double.v1.events.list({"type": "customer.updated"}).data[0]
    assert event.data.previous_attributes["name"] is None
    assert double.events() == ["customer.created", "customer.updated", "customer.deleted"]


@pytest.mark.parametrize(
    ("change", "status", "code", "param"),
    [
        ({"amount": "ten"}, 400, "parameter_invalid_integer", "amount"),
        ({"amount": 1}, 400, "amount_too_small", "amount"),
        ({"payment_method": "pm_none"}, 400, "resource_missing", "payment_method"),
        ({"tip": 5}, 400, "parameter_unknown", "tip"),
        ({"customer": ""}, 400, "parameter_invalid_empty", "customer"),
        ({"application_fee_amount": 5}, 400, "parameter_not_in_double", "application_fee_amount"),
    ],
)
def test_a_payment_that_cannot_be_is_refused(double, change, status, code, param):
    with pytest.raises(stripe.InvalidRequestError) as refusal:
        paid(double, **change)
    assert (refusal.value.http_status, refusal.value.code, refusal.value.param) == (status, code, param)
    assert refusal.value.request_id.startswith("req_")
    assert not double.v1.payment_intents.list().data
    assert not double.events()


def test_what_does_not_exist_is_missing(double):
    with pytest.raises(stripe.InvalidRequestError) as refusal:
        double.v1.payment_intents.retrieve("pi_none")
    assert (refusal.value.http_status, refusal.value.code) == (404, "resource_missing")
    assert str(refusal.value.user_message) == "No such payment_intent: 'pi_none'"
    with pytest.raises(stripe.InvalidRequestError, match="Unrecognized request URL"):
        double.client.raw_request("get", "/v1/nonsense")
    with pytest.raises(stripe.InvalidRequestError, match=r"cannot be expanded \(amount\)"):
        paid(double, expand=["amount"])


def test_only_test_keys_are_let_in(double):
    for key in ("sk_live_real", "pk_test_public"):
        with pytest.raises(stripe.AuthenticationError):
            stripe.StripeClient(key, base_addresses={"api": double.url}).v1.balance.retrieve()
    with pytest.raises(urllib.error.HTTPError) as refusal:
        urllib.request.urlopen(f"{double.url}/v1/balance")
    assert refusal.value.code == 401
    basic = {"Authorization": "Basic " + base64.b64encode(b"sk_test_kiln:").decode()}
    with urllib.request.urlopen(urllib.request.Request(f"{double.url}/v1/balance", headers=basic)) as answer:
        assert answer.headers["Request-Id"].startswith("req_")
        assert answer.headers["Stripe-Version"] == stripe.api_version
