"""A person buys something on the hosted page, or does not."""

import urllib.request
from urllib.parse import urlsplit

import pytest
import stripe

from tests.devstack.stripe.doubles import paid, pay, session

COMPLETED = [
    "payment_intent.created",
    "charge.succeeded",
    "payment_intent.succeeded",
    "checkout.session.completed",
    "charge.updated",
]


def retrieve(double, opened, *expand):
    return double.v1.checkout.sessions.retrieve(opened.id, {"expand": list(expand)})


def test_a_card_pays_a_session(double, browser, receiver):
    data = {"metadata": {"topup": "t1"}, "receipt_email": "bill@example.com"}
    opened = session(double, client_reference_id="acc_1", metadata={"pack": "p"}, payment_intent_data=data)
    assert (opened.status, opened.payment_status, opened.payment_intent) == ("open", "unpaid", None)
    assert "test double" in browser.open(opened.url)[1]

    status, _, location = pay(browser, opened.url)
    assert (status, location) == (303, f"https://kiln.example/done?session={opened.id}")

    done = retrieve(double, opened, "payment_intent.latest_charge.balance_transaction", "line_items")
    assert (done.status, done.payment_status, done.url, done.client_reference_id) == ("complete", "paid", None, "acc_1")
    assert (done.amount_total, done.currency, done.metadata["pack"]) == (1250, "usd", "p")
    assert done.customer_details.email == "alice@example.com"
    assert done.line_items.data[0].description == "1000 Tokens"
    intent = done.payment_intent
    assert (intent.status, intent.amount_received, intent.metadata["topup"]) == ("succeeded", 1250, "t1")
    charge = intent.latest_charge
    assert (charge.paid, charge.receipt_email, charge.metadata["topup"]) == (True, "bill@example.com", "t1")
    assert (charge.balance_transaction.fee, charge.balance_transaction.net) == (66, 1184)
    assert "12.50 USD" in browser.open(charge.receipt_url)[1]
    arrived = receiver.wait(*COMPLETED)
    assert receiver.types()[-5:] == COMPLETED
    assert arrived["checkout.session.completed"]["data"]["object"]["payment_status"] == "paid"
    assert arrived["charge.succeeded"]["data"]["object"]["balance_transaction"] is None


def test_a_declined_card_leaves_the_session_open_for_another(double, browser, receiver):
    opened = session(double)
    status, page, _ = pay(browser, opened.url, "4000 0000 0000 9995")
    assert status == 402
    assert "insufficient funds" in page
    half = retrieve(double, opened)
    assert (half.status, half.payment_status) == ("open", "unpaid")
    assert double.events()[-2:] == ["charge.failed", "payment_intent.payment_failed"]

    assert pay(browser, opened.url)[0] == 303
    done = retrieve(double, opened)
    assert (done.payment_intent, done.payment_status) == (half.payment_intent, "paid")
    assert pay(browser, opened.url)[0] == 303, "a second click leads to the shop"
    assert double.events().count("charge.succeeded") == 1


def test_a_real_card_is_refused(double, browser):
    status, page, _ = pay(browser, session(double).url, "4111 1111 1111 1111")
    assert status == 402
    assert "non test card" in page


def test_the_bank_is_asked_and_says_no_and_then_yes(double, browser):
    opened = session(double)
    status, _, bank = pay(browser, opened.url, "4000002760003184")
    assert status == 303
    assert "3D Secure test" in browser.open(bank)[1]
    assert retrieve(double, opened, "payment_intent").payment_intent.status == "requires_action"
    status, page, _ = browser.open(bank, answer="no")
    assert status == 402
    assert f'<form method="post" action="{urlsplit(opened.url).path}">' in page, "the next card goes to the session"
    assert retrieve(double, opened).payment_status == "unpaid"

    _, _, bank = pay(browser, opened.url, "4000002760003184")
    for _ in ("once", "twice"):
        assert browser.open(bank, answer="yes")[2] == f"https://kiln.example/done?session={opened.id}"
    assert retrieve(double, opened).payment_status == "paid"


@pytest.mark.parametrize(("succeeds", "status"), [(True, "paid"), (False, "unpaid")])
def test_a_bank_debit_ends_days_after_the_session(double, browser, receiver, succeeds, status):
    opened = session(double, allowed_payment_method_types=["us_bank_account"])
    assert pay(browser, opened.url, method="us_bank_account")[0] == 303
    waiting = retrieve(double, opened, "payment_intent")
    assert (waiting.status, waiting.payment_status, waiting.payment_intent.status) == (
        "complete",
        "unpaid",
        "processing",
    )
    double.control(f"payment_intents/{waiting.payment_intent.id}/complete", succeeded=succeeds)
    assert retrieve(double, opened).payment_status == status
    ending = "succeeded" if succeeds else "failed"
    receiver.wait("checkout.session.completed", f"checkout.session.async_payment_{ending}")


def test_a_card_is_saved_for_later(double, browser):
    usage = {"setup_future_usage": "off_session"}
    opened = session(double, customer_creation="always", payment_intent_data=usage)
    _, _, bank = pay(browser, opened.url, "4000002500003155")
    browser.open(bank, answer="yes")
    done = retrieve(double, opened, "payment_intent")
    saved = double.v1.customers.payment_methods.list(done.customer).data
    assert [method.id for method in saved] == [done.payment_intent.payment_method]
    again = paid(double, 500, saved[0].id, customer=done.customer, off_session=True)
    assert again.status == "succeeded", "a card that was set up is not asked about again"


def test_an_expired_session_cannot_be_paid(double, browser, receiver):
    by_hand, by_time = session(double), session(double)
    assert double.v1.checkout.sessions.expire(by_hand.id).status == "expired"
    with pytest.raises(stripe.InvalidRequestError, match="Only Checkout Sessions with a status"):
        double.v1.checkout.sessions.expire(by_hand.id)
    double.control("advance", seconds=25 * 3600)
    assert retrieve(double, by_time).status == "expired"
    for opened in (by_hand, by_time):
        assert pay(browser, f"{double.url}/c/pay/{opened.id}")[0] == 410
    receiver.wait("checkout.session.expired", "checkout.session.expired")
    assert not double.v1.charges.list().data


def test_sessions_by_price_with_tax_for_a_known_customer(double, browser):
    product = double.v1.products.create({"name": "Pack", "default_price_data": {"currency": "usd", "unit_amount": 700}})
    alice = double.v1.customers.create({"email": "alice@example.com"})
    order = {"line_items": [{"price": product.default_price, "quantity": 3}], "customer": alice.id}
    taxed = {"automatic_tax": {"enabled": True}, "tax_id_collection": {"enabled": True}}
    with pytest.raises(stripe.InvalidRequestError, match="valid address"):
        session(double, **order, **taxed)
    update = {"address": "auto", "name": "auto"}
    opened = session(double, **order, **taxed, customer_update=update)
    assert opened.amount_total == 2100
    assert "alice@example.com" in browser.open(opened.url)[1]
    pay(browser, opened.url, tax_id="DE123456789")
    done = retrieve(double, opened)
    assert (done.customer, done.automatic_tax.status) == (alice.id, "complete")
    assert done.customer_details.tax_ids[0].value == "DE123456789"
    assert double.v1.checkout.sessions.line_items.list(opened.id).data[0].quantity == 3


@pytest.mark.parametrize(
    ("change", "param", "message"),
    [
        ({"colour": "red"}, "colour", "Received unknown parameter: colour"),
        ({"mode": "barter"}, "mode", "must be one of"),
        (
            {"line_items": [{"price": "price_none", "quantity": 1}]},
            "line_items[0][price]",
            "No such price: 'price_none'",
        ),
        ({"line_items": [{"price_data": {"currency": "usd"}}]}, None, "Missing required param"),
        ({"expires_at": 5}, "expires_at", "between 30 minutes and 24 hours"),
        ({"customer": "cus_none"}, "customer", "No such customer: 'cus_none'"),
        ({"customer": "cus_a", "customer_email": "a@example.com"}, "customer_email", "only specify one of these"),
        ({"success_url": "javascript:alert(1)"}, "success_url", "Not a valid URL"),
        ({"shipping_options": [{"shipping_rate": "shr_1"}]}, "shipping_options", "does not support"),
    ],
)
def test_a_session_that_cannot_be_is_refused(double, change, param, message):
    with pytest.raises(stripe.InvalidRequestError, match=message) as refusal:
        session(double, **change)
    assert param is None or refusal.value.param == param
    assert not double.v1.checkout.sessions.list().data
    assert not double.events()


def test_pages_are_for_those_who_have_the_link_and_escape_what_they_show(double, browser):
    price = {"currency": "usd", "unit_amount": 500, "product_data": {"name": "<script>alert(1)</script>"}}
    opened = session(double, line_items=[{"price_data": price, "quantity": 1}])
    _, page, _ = browser.open(opened.url)
    assert "&lt;script&gt;" in page
    assert "<script>" not in page
    assert browser.open(f"{double.url}/c/pay/cs_test_none")[0] == 404
    assert browser.open(f"{double.url}/elsewhere")[0] == 404
    assert browser.open(opened.url, **{f"field{number}": "x" for number in range(50)})[0] == 400
    assert pay(browser, opened.url, expiry="13/34")[0] == 400
    assert double.v1.checkout.sessions.retrieve(opened.id).status == "open"


@pytest.mark.parametrize(
    ("currency", "amount", "shown"), [("jpy", 700, "700 JPY"), ("krw", 9900, "9900 KRW"), ("kwd", 5120, "5.120 KWD")]
)
def test_amounts_are_shown_as_their_currency_is_counted(double, currency, amount, shown):
    price = {"currency": currency, "unit_amount": amount, "product_data": {"name": "Tokens"}}
    terms = {
        "mode": "payment",
        "success_url": "http://x.example/",
        "line_items": [{"price_data": price, "quantity": 1}],
    }
    with urllib.request.urlopen(double.v1.checkout.sessions.create(terms).url) as page:
        assert f">{shown}<" in page.read().decode()


@pytest.mark.parametrize(
    ("currency", "amount", "code"),
    [
        ("usd", 49, "amount_too_small"), ("gbp", 29, "amount_too_small"), ("jpy", 49, "amount_too_small"),
        ("huf", 17499, "amount_too_small"), ("kwd", 5124, "parameter_invalid_integer"),
        ("isk", 20_050, "parameter_invalid_integer"),
    ],
)  # fmt: skip
def test_amounts_that_stripe_does_not_take_are_refused(double, currency, amount, code):
    with pytest.raises(stripe.InvalidRequestError) as refused:
        double.v1.payment_intents.create({"amount": amount, "currency": currency})
    assert refused.value.code == code
