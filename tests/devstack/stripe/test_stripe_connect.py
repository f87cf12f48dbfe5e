"""Creators: an account is made and onboarded, money is transferred to it and taken back."""

import pytest
import stripe

from tests.devstack.stripe.doubles import paid


@pytest.fixture
def creator(double):
    capabilities = {"transfers": {"requested": True}}
    return double.v1.accounts.create({"type": "express", "email": "carol@example.com", "capabilities": capabilities})


def onboard(double, browser, creator):
    order = {"account": creator.id, "type": "account_onboarding", "refresh_url": "https://kiln.example/again"}
    link = double.v1.account_links.create({**order, "return_url": "https://kiln.example/creators"})
    assert browser.open(link.url, agreed="yes")[2] == "https://kiln.example/creators"


def test_an_account_is_payable_once_it_is_onboarded(double, browser, creator, receiver):
    assert (creator.payouts_enabled, creator.details_submitted) == (False, False)
    with pytest.raises(stripe.InvalidRequestError, match="has not completed onboarding"):
        double.v1.accounts.login_links.create(creator.id)
    onboard(double, browser, creator)
    done = double.v1.accounts.retrieve(creator.id)
    assert (done.payouts_enabled, done.capabilities.transfers) == (True, "active")
    event = receiver.wait("account.updated")["account.updated"]
    assert event["account"] == creator.id
    assert event["data"]["previous_attributes"]["payouts_enabled"] is False
    assert double.v1.accounts.login_links.create(creator.id).url
    double.control(f"accounts/{creator.id}", payouts_enabled=False, disabled_reason="rejected.fraud")
    stopped = double.v1.accounts.retrieve(creator.id)
    assert (stopped.payouts_enabled, stopped.requirements.disabled_reason) == (False, "rejected.fraud")


def test_money_is_transferred_and_taken_back(double, browser, creator):
    order = {"amount": 700, "currency": "usd", "destination": creator.id, "metadata": {"share": "s1"}}
    with pytest.raises(stripe.InvalidRequestError) as refusal:
        double.v1.transfers.create(order)
    assert refusal.value.code == "insufficient_capabilities_for_transfer"
    onboard(double, browser, creator)
    with pytest.raises(stripe.InvalidRequestError) as refusal:
        double.v1.transfers.create(order)
    assert refusal.value.code == "balance_insufficient"

    paid(double, 1000)
    double.control("advance", seconds=2 * 86_400)
    transfer = double.v1.transfers.create(order)
    assert double.v1.balance.retrieve().available[0].amount == 941 - 700
    theirs = double.v1.balance.retrieve(options={"stripe_account": creator.id})
    assert theirs.available[0].amount == 700

    reversal = double.v1.transfers.reversals.create(transfer.id, {"amount": 200})
    with pytest.raises(stripe.InvalidRequestError):
        double.v1.transfers.reversals.create(transfer.id, {"amount": 501})
    double.v1.transfers.reversals.create(transfer.id)
    done = double.v1.transfers.retrieve(transfer.id)
    assert (done.amount_reversed, done.reversed, done.metadata["share"]) == (700, True, "s1")
    assert [each.id for each in done.reversals.data][1] == reversal.id
    assert double.events()[-3:] == ["transfer.created", "transfer.reversed", "transfer.reversed"]
    assert double.v1.balance.retrieve().available[0].amount == 941


def test_a_charge_pays_for_its_own_transfers_only(double, browser, creator):
    onboard(double, browser, creator)
    charge = paid(double, 1000).latest_charge
    order = {"currency": "usd", "destination": creator.id, "source_transaction": charge}
    double.v1.transfers.create({**order, "amount": 600})
    with pytest.raises(stripe.InvalidRequestError, match="400 is left"):
        double.v1.transfers.create({**order, "amount": 401})
