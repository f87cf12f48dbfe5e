"""Makers in the API's second version: an account, its onboarding, thin events, and transfers that reach it."""

import pytest
import stripe

from tests.devstack.stripe.doubles import paid

CHANGED = "v2.core.account[configuration.recipient].capability_status_updated"


def order(country="de"):
    transfers = {"stripe_transfers": {"requested": True}}
    return {
        "contact_email": "carol@example.com", "dashboard": "express",
        "identity": {"country": country, "entity_type": "individual"},
        "configuration": {"recipient": {"capabilities": {"stripe_balance": transfers}}},
        "defaults": {"responsibilities": {"fees_collector": "application", "losses_collector": "application"}},
    }  # fmt: skip


def status(double, account):
    found = double.v2.core.accounts.retrieve(account, {"include": ["configuration.recipient"]})
    return found.configuration.recipient.capabilities.stripe_balance.stripe_transfers.status


def link(double, account):
    case = {"refresh_url": "https://kiln.example/again", "return_url": "https://kiln.example/earnings"}
    use = {"type": "account_onboarding", "account_onboarding": case}
    return double.v2.core.account_links.create({"account": account, "use_case": use}).url


def test_a_recipient_is_paid_once_it_is_onboarded(double, browser, receiver):
    account = double.v2.core.accounts.create(order(), {"idempotency_key": "one"}).id
    assert double.v2.core.accounts.create(order(), {"idempotency_key": "one"}).id == account
    assert double.v2.core.accounts.retrieve(account).configuration is None
    assert status(double, account) == "restricted"
    page = link(double, account)
    assert browser.open(page, later="yes")[2] == "https://kiln.example/earnings"
    assert status(double, account) == "restricted"
    assert browser.open(page, agreed="yes")[2] == "https://kiln.example/earnings"
    assert status(double, account) == "active"
    event = receiver.wait(CHANGED)[CHANGED]
    assert (event["related_object"]["id"], "data" in event) == (account, False)

    paid(double, 1000)
    double.control("advance", seconds=2 * 86_400)
    assert double.v1.transfers.create({"amount": 500, "currency": "usd", "destination": account}).amount == 500
    double.control(f"accounts/{account}", recipient="rejected")
    assert status(double, account) == "rejected"
    with pytest.raises(stripe.InvalidRequestError) as refusal:
        double.v1.transfers.create({"amount": 100, "currency": "usd", "destination": account})
    assert refusal.value.code == "insufficient_capabilities_for_transfer"


def test_a_country_that_stripe_moves_no_money_to_is_refused(double):
    with pytest.raises(stripe.InvalidRequestError) as refusal:
        double.v2.core.accounts.create(order("br"))
    assert refusal.value.code == "unsupported_country"


def test_a_parameter_that_is_not_known_is_refused(double):
    with pytest.raises(stripe.InvalidRequestError, match="unknown parameter"):
        double.v2.core.accounts.create(order() | {"colour": "red"})
