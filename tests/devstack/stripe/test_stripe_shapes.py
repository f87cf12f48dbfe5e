"""Objects have the fields that the SDK's classes promise, and no others."""

from typing import get_args

import pytest

from devstack.stripe.objects import KINDS
from tests.devstack.stripe.doubles import paid, pay, session


def promised(kind):
    hints = KINDS[kind][0].__annotations__
    return {name for name, hint in hints.items() if type(None) not in get_args(hint)} - {"OBJECT_NAME"}


@pytest.fixture
def shop(double, browser):
    """A double in which everything has happened once."""
    opened = session(double, customer_creation="always")
    pay(browser, opened.url)
    alice = double.v1.customers.create()
    double.v1.setup_intents.create({"customer": alice.id, "payment_method": "pm_card_visa"})
    intent = paid(double, 9000, "pm_card_bypassPending")
    double.v1.refunds.create({"payment_intent": intent.id, "amount": 100})
    paid(double, 1000, "pm_card_createDispute")
    paid(double, 1000, "pm_card_createIssuerFraudRecord")
    capabilities = {"transfers": {"requested": True}}
    creator = double.v1.accounts.create({"type": "express", "capabilities": capabilities})
    double.control(f"accounts/{creator.id}", payouts_enabled=True, details_submitted=True)
    transfer = double.v1.transfers.create({"amount": 300, "currency": "usd", "destination": creator.id})
    double.v1.transfers.reversals.create(transfer.id, {"amount": 100})
    return double


def test_every_object_has_the_promised_fields(shop):
    lists = {
        "account": shop.v1.accounts,
        "balance_transaction": shop.v1.balance_transactions,
        "charge": shop.v1.charges,
        "checkout.session": shop.v1.checkout.sessions,
        "customer": shop.v1.customers,
        "dispute": shop.v1.disputes,
        "event": shop.v1.events,
        "payment_intent": shop.v1.payment_intents,
        "payment_method": shop.v1.payment_methods,
        "price": shop.v1.prices,
        "product": shop.v1.products,
        "radar.early_fraud_warning": shop.v1.radar.early_fraud_warnings,
        "refund": shop.v1.refunds,
        "setup_intent": shop.v1.setup_intents,
        "transfer": shop.v1.transfers,
    }
    found = {kind: service.list().data for kind, service in lists.items()}
    transfer, opened = found["transfer"][0], found["checkout.session"][0]
    found["transfer_reversal"] = shop.v1.transfers.reversals.list(transfer.id).data
    found["item"] = shop.v1.checkout.sessions.line_items.list(opened.id).data
    assert set(found) == set(KINDS)
    for kind, objects in found.items():
        assert objects, kind
        for each in objects:
            fields = set(each.to_dict())
            assert promised(kind) <= fields, kind
            assert fields <= set(KINDS[kind][0].__annotations__), kind
