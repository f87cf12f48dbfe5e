"""Events arrive signed, again until they are taken, and as badly as asked."""

import time

import pytest
import stripe

from tests.devstack.stripe.doubles import SECRET, InThread, Receiver, paid


def test_a_webhook_is_signed_as_stripe_signs(double, receiver):
    intent = paid(double)
    receiver.wait("payment_intent.succeeded")
    for sent, signature, body in receiver.arrived:
        event = stripe.Webhook.construct_event(body, signature, SECRET)
        assert (event.id, event.api_version) == (sent["id"], stripe.api_version)
        assert sent["type"] != "payment_intent.succeeded" or event.data.object.id == intent.id
        with pytest.raises(stripe.SignatureVerificationError):
            stripe.Webhook.construct_event(body.replace(b"1250", b"9250"), signature, SECRET)


def test_two_secrets_sign_while_one_is_replaced(receiver):
    double = InThread(receiver, SECRET, "whsec_second")
    try:
        double.v1.customers.create()
        receiver.wait("customer.created")
        _, signature, body = receiver.arrived[0]
        for secret in (SECRET, "whsec_second"):
            stripe.Webhook.construct_event(body, signature, secret)
        double.control("webhook", secrets=["whsec_third"])
        double.v1.customers.create()
        receiver.wait("customer.created", "customer.created")
        _, signature, body = receiver.arrived[1]
        stripe.Webhook.construct_event(body, signature, "whsec_third")
        with pytest.raises(stripe.SignatureVerificationError):
            stripe.Webhook.construct_event(body, signature, SECRET)
    finally:
        double.end()


def test_events_can_be_pointed_elsewhere(double, receiver):
    elsewhere = Receiver()
    double.control("webhook", url=elsewhere.url)
    double.v1.customers.create()
    elsewhere.wait("customer.created")
    assert not receiver.arrived
    elsewhere.server.shutdown()
    elsewhere.server.server_close()


def test_an_event_comes_again_until_it_is_taken(double, receiver):
    receiver.statuses = [500, 302]
    double.v1.customers.create()
    receiver.wait(*["customer.created"] * 2)
    double.control("advance", seconds=60)
    receiver.wait(*["customer.created"] * 3)
    assert len({event["id"] for event, _, _ in receiver.arrived}) == 1
    delivery = settled(double)[0]
    assert [attempt["status"] for attempt in delivery["attempts"]] == [500, 302, 200]
    assert double.v1.events.list({"delivery_success": True}).data[0].pending_webhooks == 0


def settled(double):
    """The deliveries, once none of them is waiting."""
    for _ in range(200):
        found = double.control("deliveries", method="GET")
        if all(each["state"] != "waiting" for each in found):
            return found
        time.sleep(0.05)
    raise AssertionError(found)


def test_events_come_twice_late_in_another_order_or_not_at_all(double, receiver):
    faults = {"customer.created": "duplicate", "charge.succeeded": "reorder", "charge.updated": "lose"}
    for event, kind in faults.items():
        double.control("faults", kind=kind, match=event)
    double.control("faults", kind="delay", match="payment_intent.created", seconds=3600)
    customer = double.v1.customers.create()
    paid(double, customer=customer.id)
    receiver.wait("customer.created", "customer.created", "payment_intent.succeeded", "charge.succeeded")
    created = "customer.created"
    assert receiver.types() == [created, created, "payment_intent.succeeded", "charge.succeeded"]
    double.control("advance", seconds=3600)
    receiver.wait("payment_intent.created")
    assert {each["type"]: each["state"] for each in settled(double)}["charge.updated"] == "lost"
    assert "charge.updated" in double.events(), "what was lost on the way can still be listed"
    missed = double.v1.events.list({"delivery_success": False}).data
    assert [each.type for each in missed] == ["charge.updated"]
    double.control(f"events/{missed[0].id}/deliver")
    receiver.wait("charge.updated")


def test_events_are_listed_by_time_and_type_page_by_page(double):
    for number in range(7):
        double.v1.customers.create({"name": str(number)})
    paid(double)
    first = double.v1.events.list({"types": ["customer.created"], "limit": 3})
    assert (len(first.data), first.has_more) == (3, True)
    after = double.v1.events.list({"type": "customer.*", "limit": 4, "starting_after": first.data[-1].id})
    assert (len(after.data), after.has_more) == (4, False)
    before = double.v1.events.list({"types": ["customer.created"], "ending_before": after.data[0].id})
    assert [each.id for each in before.data] == [each.id for each in first.data]
    names = [event.data.object["name"] for event in [*first.data, *after.data]]
    assert names == list("6543210")
    moment = first.data[0].created
    assert not double.v1.events.list({"created": {"gt": moment + 60}}).data
    assert len(double.v1.events.list({"created": {"gte": moment - 60, "lt": moment + 60}, "limit": 100}).data) == 11
    assert double.v1.events.retrieve(first.data[0].id).type == "customer.created"
    with pytest.raises(stripe.InvalidRequestError):
        double.v1.events.list({"limit": 101})
