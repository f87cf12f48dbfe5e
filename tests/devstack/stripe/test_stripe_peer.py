"""Where localstripe answers the same calls, another hand's reading of Stripe's API, it and the double answer alike.

Left out: what localstripe does not have (Checkout, disputes, Connect, prices, idempotency keys, confirmation off
session) or is known to do otherwise than Stripe (refunds above the charge, the code of a missing object).
"""

import subprocess
import sys

import pytest
import stripe

from devstack import processes
from tests.devstack.stripe.doubles import KEY


@pytest.fixture
def peer(tmp_path):
    port = processes.free_port()
    command = [sys.executable, "-m", "localstripe", "--port", str(port), "--from-scratch"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=tmp_path)
    client = stripe.StripeClient(KEY, base_addresses={"api": f"http://127.0.0.1:{port}"}, max_network_retries=0)

    def answers():
        try:
            client.v1.customers.list()
            return True
        except stripe.APIConnectionError:
            return False

    assert processes.wait_until(answers, 60)
    yield client.v1
    process.terminate()
    process.wait(20)


def refusal(call, *order):
    with pytest.raises(stripe.StripeError) as refused:
        call(*order)
    return type(refused.value).__name__, refused.value.http_status


def facts(v1):
    """What a customer, their cards and their payments are said to be, by name."""
    found = {}
    customer = v1.customers.create({"email": "bob@example.com", "metadata": {"account": "17"}})
    found["customer"] = (customer.object, customer.email, customer.metadata["account"], customer.id[:4])
    found["no customer"] = refusal(v1.customers.retrieve, "cus_nobody")

    def card(number):
        terms = {"number": number, "exp_month": 12, "exp_year": 2034, "cvc": "123"}
        return v1.payment_methods.create({"type": "card", "card": terms})

    visa = card("4242424242424242")
    shown = visa.card
    found["card"] = (visa.type, shown.brand, shown.last4, shown.exp_month, shown.exp_year, shown.funding, visa.customer)
    attached = v1.payment_methods.attach(visa.id, {"customer": customer.id})
    found["attached"] = attached.customer == customer.id
    listed = v1.payment_methods.list({"customer": customer.id, "type": "card"})
    found["listed"] = ([each.id == visa.id for each in listed.data], listed.has_more)
    declined = card("4000000000000002")
    found["declined when attached"] = refusal(v1.payment_methods.attach, declined.id, {"customer": customer.id})

    order = {"amount": 1250, "currency": "eur", "customer": customer.id}
    bare = v1.payment_intents.create({**order, "metadata": {"top_up": "1"}})
    found["without a card"] = (bare.status, bare.amount, bare.currency, bare.metadata["top_up"], bare.latest_charge)
    ready = v1.payment_intents.create({**order, "payment_method": visa.id})
    found["with a card"] = (ready.status, ready.next_action, ready.client_secret.startswith(f"{ready.id}_secret_"))
    found["canceled"] = v1.payment_intents.cancel(ready.id).status
    found["canceled twice"] = refusal(v1.payment_intents.cancel, ready.id)
    found["confirmed after that"] = refusal(v1.payment_intents.confirm, ready.id)

    away = {"confirm": True, "off_session": True}
    paid = v1.payment_intents.create({**order, "payment_method": visa.id, **away})
    found["paid"] = (paid.status, paid.last_payment_error, paid.next_action)
    (charge,) = v1.charges.list({"customer": customer.id}).data
    found["charge"] = (charge.amount, charge.currency, charge.status, charge.paid, charge.captured, charge.refunded)
    part = v1.refunds.create({"payment_intent": paid.id, "amount": 500})
    found["refund"] = (part.status, part.amount, part.currency, part.charge == charge.id)
    charge = v1.charges.retrieve(charge.id)
    found["refunded in part"] = (charge.amount_refunded, charge.refunded)
    v1.refunds.create({"payment_intent": paid.id, "amount": 750})
    charge = v1.charges.retrieve(charge.id)
    found["refunded"] = (charge.amount_refunded, charge.refunded)

    empty = card("4000000000000341")
    v1.payment_methods.attach(empty.id, {"customer": customer.id})
    found["declined"] = refusal(v1.payment_intents.create, {**order, "payment_method": empty.id, **away})
    found["charges"] = sorted(each.status for each in v1.charges.list({"customer": customer.id}).data)
    found["detached"] = v1.payment_methods.detach(visa.id).customer

    setup = v1.setup_intents.create({"customer": customer.id, "usage": "off_session"})
    found["setup"] = (setup.status, setup.usage, setup.customer == customer.id)
    product = v1.products.create({"name": "Tokens"})
    found["product"] = (product.name, product.active, product.object)
    gone = v1.customers.delete(customer.id)
    found["deleted"] = (gone.deleted, gone.id == customer.id)
    return found


def test_the_double_answers_as_localstripe_does(double, peer):
    assert facts(double.v1) == facts(peer)
