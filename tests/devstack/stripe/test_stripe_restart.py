"""What was answered survives a kill -9."""

import threading

from test_stripe_idempotency import ORDER, post

from tests.devstack.stripe.doubles import pay, session


def test_nothing_that_was_answered_is_lost(lasting, browser, receiver):
    opened = session(lasting)
    page = f"/c/pay/{opened.id}"
    first = post(lasting, "/v1/payment_intents", "k1", **ORDER)
    lasting.control("faults", kind="rate_limit", match="GET /v1/balance")
    lasting.control("advance", seconds=3600)
    before = [(each.id, each.data) for each in lasting.v1.events.list({"limit": 100}).data]

    lasting.crash()
    lasting.start()

    assert post(lasting, "/v1/payment_intents", "k1", **ORDER)[2] == first[2]
    assert [(each.id, each.data) for each in lasting.v1.events.list({"limit": 100}).data] == before
    assert pay(browser, lasting.url + page)[0] == 303
    assert lasting.v1.checkout.sessions.retrieve(opened.id).payment_status == "paid"
    assert [each["kind"] for each in lasting.control("faults", method="GET")] == ["rate_limit"]
    assert lasting.v1.customers.create().created - opened.created >= 3600, "the clock stays where it was moved to"
    receiver.wait("checkout.session.completed")


def test_events_that_were_not_delivered_are_delivered_after_the_restart(lasting, receiver):
    receiver.statuses = [503] * 3
    lasting.v1.customers.create()
    receiver.wait("customer.created")
    lasting.crash()
    receiver.statuses = []
    lasting.start()
    lasting.control("advance", seconds=60)
    receiver.wait("customer.created", "customer.created")


def test_crashes_amid_payments_lose_no_answer_and_repeat_no_charge(lasting):
    answered, stop = {}, threading.Event()

    def buyer(name):
        number = 0
        while not stop.is_set():
            key = f"{name}-{number}"
            try:
                status, _, body = post(lasting, "/v1/payment_intents", key, **ORDER)
            except OSError:
                continue
            assert status == 200
            answered[key] = body
            number += 1

    buyers = [threading.Thread(target=buyer, args=(name,)) for name in "ab"]
    for each in buyers:
        each.start()
    for _ in range(3):
        stop.wait(0.7)
        lasting.crash()
        lasting.start()
    stop.wait(0.5)
    stop.set()
    for each in buyers:
        each.join()
    assert len(answered) > 10
    assert all(post(lasting, "/v1/payment_intents", key, **ORDER)[2] == body for key, body in answered.items())
    totals = lasting.control("totals", method="GET")["usd"]
    assert totals["numbers"]["charged"] == len(answered)
    assert totals["charged"] == 500 * len(answered)
