"""Money goes back: refunds, disputes, early fraud warnings; and the totals stay right to the cent."""

import urllib.error

import pytest
import stripe

from tests.devstack.stripe.doubles import paid, pay, session


def net(double):
    """The sum of what every balance transaction brought."""
    return sum(each.net for each in double.v1.balance_transactions.list({"limit": 100}).auto_paging_iter())


def test_refunds_in_part_up_to_the_whole_and_no_further(double):
    intent = paid(double, 1000)
    first = double.v1.refunds.create({"payment_intent": intent.id, "amount": 300, "metadata": {"why": "late"}})
    assert (first.status, first.amount, first.charge) == ("succeeded", 300, intent.latest_charge)
    with pytest.raises(stripe.InvalidRequestError, match=r"\(7.01 USD\) is greater than unrefunded amount on charge"):
        double.v1.refunds.create({"payment_intent": intent.id, "amount": 701})
    charge = double.v1.charges.retrieve(intent.latest_charge)
    assert (charge.amount_refunded, charge.refunded) == (300, False)
    double.v1.refunds.create({"charge": charge.id, "reason": "requested_by_customer"})
    with pytest.raises(stripe.InvalidRequestError) as refusal:
        double.v1.refunds.create({"charge": charge.id})
    assert refusal.value.code == "charge_already_refunded"
    charge = double.v1.charges.retrieve(charge.id, {"expand": ["refunds"]})
    assert (charge.amount_refunded, charge.refunded) == (1000, True)
    assert [each.amount for each in charge.refunds.data] == [700, 300]
    assert double.events()[-4:] == ["charge.refunded", "refund.created"] * 2
    assert net(double) == -59, "Stripe keeps its fee"


def test_a_refund_from_the_dashboard_and_one_that_fails(double, receiver):
    intent = paid(double, 1000)
    refund = double.control("refunds", payment_intent=intent.id, amount=400)
    assert receiver.wait("refund.created")["refund.created"]["request"]["id"] is None
    double.control(f"refunds/{refund['id']}/fail")
    arrived = receiver.wait("refund.failed")
    assert arrived["refund.failed"]["data"]["object"]["status"] == "failed"
    assert double.v1.charges.retrieve(intent.latest_charge).amount_refunded == 0
    assert net(double) == 1000 - 59


@pytest.mark.parametrize(("end", "refunded"), [("succeeded", 400), ("failed", 0)])
def test_a_refund_of_some_cards_is_pending_first(double, end, refunded):
    intent = paid(double, 1000, "pm_card_pendingRefund")
    refund = double.v1.refunds.create({"payment_intent": intent.id, "amount": 400})
    assert refund.status == "pending"
    with pytest.raises(stripe.InvalidRequestError):
        double.v1.refunds.cancel(refund.id)
    double.control(f"refunds/{refund.id}", status=end)
    assert double.v1.refunds.retrieve(refund.id).status == end
    assert double.events()[-1] == ("refund.failed" if end == "failed" else "refund.updated")
    assert double.v1.charges.retrieve(intent.latest_charge).amount_refunded == refunded
    assert net(double) == 1000 - refunded - 59


def test_a_refund_that_waits_for_the_customer_can_be_canceled(double):
    intent = paid(double, 1000)
    refund = double.control("refunds", payment_intent=intent.id, amount=400, status="requires_action")
    canceled = double.v1.refunds.cancel(refund["id"])
    assert (canceled.status, canceled.failure_reason) == ("canceled", "merchant_request")
    assert double.events()[-1] == "refund.updated"
    assert net(double) == 1000 - 59


@pytest.mark.parametrize(("verdict", "kept"), [("won", 1000), ("lost", 0)])
def test_a_dispute_takes_the_money_until_it_is_won(double, verdict, kept):
    intent = paid(double, 1000)
    dispute = double.control("disputes", payment_intent=intent.id, reason="product_not_received")
    assert double.v1.charges.retrieve(intent.latest_charge).disputed
    assert net(double) == -59 - 1500
    with pytest.raises(stripe.InvalidRequestError) as refusal:
        double.v1.refunds.create({"payment_intent": intent.id})
    assert refusal.value.code == "charge_disputed"
    double.control(f"disputes/{dispute['id']}/close", status=verdict)
    closed = double.v1.disputes.retrieve(dispute["id"])
    assert (closed.status, closed.reason, closed.amount) == (verdict, "product_not_received", 1000)
    assert net(double) == kept - 59 - 1500
    events = [each for each in double.events() if each.startswith("charge.dispute.")]
    reinstated = ["charge.dispute.funds_reinstated"] if verdict == "won" else []
    opened = ["charge.dispute.created", "charge.dispute.funds_withdrawn"]
    assert events == [*opened, *reinstated, "charge.dispute.closed"]
    with pytest.raises(urllib.error.HTTPError):
        double.control(f"disputes/{dispute['id']}/close", status="won")


def test_evidence_wins_a_dispute_and_acceptance_loses_it(double):
    for win in (True, False):
        intent = paid(double, 1000, "pm_card_createDispute")
        dispute = double.v1.disputes.list({"payment_intent": intent.id}).data[0]
        if win:
            evidence = {"uncategorized_text": "winning_evidence"}
            assert double.v1.disputes.update(dispute.id, {"evidence": evidence}).status == "won"
        else:
            assert double.v1.disputes.close(dispute.id).status == "lost"


def test_a_disputed_card_on_the_page(double, browser, receiver):
    pay(browser, session(double).url, "4000 0000 0000 0259")
    receiver.wait("checkout.session.completed", "charge.dispute.created", "charge.dispute.funds_withdrawn")


def test_an_early_fraud_warning_is_actionable_until_the_refund(double):
    intent = paid(double, 1000, "pm_card_createIssuerFraudRecord")
    by_hand = double.control("fraud_warnings", charge=paid(double).latest_charge)
    warnings = double.v1.radar.early_fraud_warnings
    assert next(each.id for each in warnings.list().data) == by_hand["id"]
    warning = warnings.list({"payment_intent": intent.id}).data[0]
    assert warning.actionable
    double.v1.refunds.create({"payment_intent": intent.id})
    assert not warnings.retrieve(warning.id).actionable
    assert double.events()[-1] == "radar.early_fraud_warning.updated"


def test_the_totals_reconcile_with_the_balance(double):
    intents = [paid(double, amount) for amount in (1000, 2050, 777)]
    paid(double, 333, currency="eur")
    double.v1.refunds.create({"payment_intent": intents[0].id, "amount": 99})
    double.control("disputes", payment_intent=intents[2].id)
    totals = double.control("totals", method="GET")
    usd, eur = totals["usd"], totals["eur"]
    assert (usd["charged"], usd["refunded"], usd["disputed"]) == (3827, 99, 777)
    assert usd["numbers"]["charged"] == 3
    assert usd["fees"] == 59 + 89 + 53 + 1500
    assert usd["net"] == usd["charged"] - usd["refunded"] - usd["disputed"] - usd["fees"]
    assert eur["net"] == 333 - 40
    balance = double.v1.balance.retrieve()
    sums = {each.currency: each.amount for each in balance.pending}
    for each in balance.available:
        sums[each.currency] += each.amount
    assert sums == {"usd": usd["net"], "eur": eur["net"]}
