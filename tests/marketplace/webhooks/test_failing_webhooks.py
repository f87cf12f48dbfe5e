"""What becomes of deliveries that fail, wait or come too late. Real HTTPS, real signatures."""

import threading
import time
from datetime import timedelta

import pytest
from django.db import connection, transaction
from django.db.models.functions import Now

from marketplace.webhooks import deliveries
from marketplace.webhooks.models import Delivery, Endpoint
from tests.marketplace.webhooks.making import delivered, due, make

pytestmark = pytest.mark.django_db(transaction=True)


def test_a_failure_is_tried_again_with_the_same_id_until_it_arrives(alice, receiver, sender, ends):
    webhook = make(alice, receiver)
    answers = iter([500, 302, 200])
    receiver.answers["/hook"] = lambda: (next(answers), {"Location": f"{receiver.url}/elsewhere"})
    ends(alice)
    for attempts in (1, 2, 3):
        assert sender.send() == 1
        assert [row["attempts"] for row in delivered(alice, webhook)] == [attempts]
        due()
    (row,) = delivered(alice, webhook)
    assert (row["status"], row["answer_status"], row["next_attempt_at"]) == ("delivered", 200, None)
    assert len({each.headers["webhook-id"] for each in receiver.heard}) == 1
    assert {each.path for each in receiver.heard} == {"/hook"}


def test_an_event_is_sent_once_more_on_request_under_its_id(alice, receiver, sender, ends):
    webhook = make(alice, receiver)
    ends(alice)
    sender.send()
    (row,) = delivered(alice, webhook)
    again = alice.post(f"/v1/webhooks/{webhook['id']}/deliveries/{row['id']}/replay")
    assert again.status_code == 202
    sender.send()
    first, second = receiver.heard
    assert first.headers["webhook-id"] == second.headers["webhook-id"] == again.json()["event"]
    assert first.event["timestamp"] == second.event["timestamp"]
    assert [each["status"] for each in delivered(alice, webhook)] == ["delivered", "delivered"]


def test_410_disables_and_the_owner_is_told(alice, receiver, sender, ends):
    webhook, other = make(alice, receiver), make(alice, receiver, "/other", ["webhook.disabled"])
    receiver.answers["/hook"] = 410
    ends(alice)
    sender.send()
    seen = alice.get(f"/v1/webhooks/{webhook['id']}").json()
    assert (seen["enabled"], seen["disabled_reason"]) == (False, "gone")
    (told,) = receiver.at("/other")
    assert told.verify(other["secret"])["data"] == {"webhook": webhook["id"], "url": webhook["url"], "reason": "gone"}
    assert [row["status"] for row in delivered(alice, webhook)] == ["failed"]
    ends(alice)
    assert sender.send() == 0


@pytest.mark.parametrize("status", [410, 200])
def test_answers_that_come_while_a_webhook_is_disabled_wait_for_it(alice, receiver, ends, status):
    """Whoever disables one locks it and then what waits for it; answers in the other order would be deadlocks."""
    webhook = make(alice, receiver)
    Endpoint.objects.filter(id=webhook["id"]).update(failures=1)
    for _ in range(2):
        ends(alice)
    first, second = deliveries.claim(10, {}, {})
    broken = []

    def finish(delivery, answered):
        try:
            deliveries.finish(delivery, deliveries.Answer(status=answered))
        except Exception as error:  # noqa: BLE001 - a deadlock, or whatever else
            broken.append(error)
        finally:
            connection.close()

    with transaction.atomic():
        Endpoint.objects.select_for_update().get(id=webhook["id"])
        pairs = [(first, 410), (second, status)]
        threads = [threading.Thread(target=finish, args=each) for each in pairs]
        for thread in threads:
            thread.start()
            time.sleep(0.3)
    for thread in threads:
        thread.join()
    assert broken == []
    assert not Endpoint.objects.get(id=webhook["id"]).enabled
    assert not Delivery.objects.filter(endpoint_id=webhook["id"], status="waiting").exists()


def test_an_answer_that_asks_for_patience_gets_it(alice, receiver, sender, ends):
    webhook = make(alice, receiver)
    receiver.answers["/hook"] = lambda: (429, {"Retry-After": "1800"})
    ends(alice)
    ends(alice)
    sender.send()
    seen = Endpoint.objects.annotate(now=Now()).get()
    assert timedelta(minutes=29) < seen.paused_until - seen.now <= timedelta(minutes=30)
    Delivery.objects.update(next_at=Now())
    assert sender.send() == 0
    receiver.answers["/hook"] = lambda: (429, {"Retry-After": "999999999999"})
    due()
    sender.send()
    seen = Endpoint.objects.annotate(now=Now()).get()
    assert seen.paused_until - seen.now <= timedelta(hours=1)
    assert alice.get(f"/v1/webhooks/{webhook['id']}").json()["paused_until"]


def test_an_endpoint_that_keeps_failing_is_tried_by_one_delivery_and_then_gets_all(alice, receiver, sender, ends):
    webhook = make(alice, receiver)
    receiver.answers["/hook"] = 500
    for _ in range(deliveries.PATIENCE + 3):
        ends(alice)
    sender.send()
    tried = len(receiver.heard)
    assert tried >= deliveries.PATIENCE
    for _ in range(3):
        due()
        assert sender.send() == 1
    receiver.answers["/hook"] = 200
    due()
    assert sender.send() == deliveries.PATIENCE + 3
    seen = alice.get(f"/v1/webhooks/{webhook['id']}").json()
    assert (seen["failing_since"], seen["paused_until"]) == (None, None)
    assert {row["status"] for row in delivered(alice, webhook)} == {"delivered"}


def test_after_days_of_failures_it_is_disabled_and_can_be_enabled_and_repeated(alice, receiver, sender, ends):
    webhook = make(alice, receiver)
    receiver.answers["/hook"] = 500
    ends(alice)
    sender.send()
    Endpoint.objects.update(failing_since=Now() - deliveries.GIVE_UP - timedelta(minutes=1))
    ends(alice)
    due()
    sender.send()
    path = f"/v1/webhooks/{webhook['id']}"
    assert alice.get(path).json()["disabled_reason"] == "failing"
    rows = delivered(alice, webhook)
    assert {row["status"] for row in rows} == {"failed"}
    receiver.answers["/hook"] = 200
    alice.patch(path, {"enabled": True})
    for row in rows:
        assert alice.post(f"{path}/deliveries/{row['id']}/replay").status_code == 202
    sender.send()
    assert [row["status"] for row in delivered(alice, webhook)][:2] == ["delivered", "delivered"]


def test_a_slow_endpoint_delays_no_other(alice, bob, receiver, sender, ends):
    from billing.tokens import wallets

    make(alice, receiver, "/slow")
    released = []

    def slow():
        while not released:
            time.sleep(0.01)
        return 200, {}

    receiver.answers["/slow"] = slow
    for _ in range(8):
        ends(alice)
    assert sender.deliverer.look() == deliveries.LANE_HANDS
    wallets.grant(bob.account.id, 100_000, "some")
    make(bob, receiver, "/quick")
    ends(bob)
    assert sender.deliverer.look() == 1
    while not receiver.at("/quick"):
        time.sleep(0.01)
    assert len(receiver.at("/slow")) <= deliveries.LANE_HANDS
    released.append(True)
    sender.wait()
    assert sender.send() == 4


def test_what_was_claimed_by_a_deliverer_that_died_is_sent_by_the_next(alice, receiver, sender, ends):
    make(alice, receiver)
    ends(alice)
    (lost,) = deliveries.claim(10, {}, {})
    assert sender.send() == 0
    Delivery.objects.update(next_at=Now())
    assert sender.send() == 1
    deliveries.finish(lost, deliveries.Answer(error="it came back late"))
    row = Delivery.objects.get()
    assert (row.status, row.attempts, len(receiver.heard)) == ("delivered", 2, 1)


@pytest.mark.parametrize("place", ["https://127.0.0.1/", "https://localhost/", "https://169.254.169.254/latest"])
def test_nothing_is_sent_into_the_private_network(alice, sender, ends, place):
    alice.post("/v1/account/webhook-secret")
    ends(alice, webhook_url=place)
    sender.send()
    row = Delivery.objects.get()
    assert (row.status, row.answered, row.error) == ("waiting", None, "its host is not on the public internet")


def test_deliveries_are_forgotten_after_a_month_and_beyond_their_number(alice, receiver, sender, ends, monkeypatch):
    make(alice, receiver)
    for _ in range(3):
        ends(alice)
    sender.send()
    old = Delivery.objects.order_by("id").first()
    Delivery.objects.filter(id=old.id).update(created_at=Now() - timedelta(days=31))
    deliveries.forget()
    assert Delivery.objects.count() == 2
    newest = Delivery.objects.order_by("-id").first()
    monkeypatch.setattr(deliveries, "MOST", 1)
    deliveries.forget()
    assert Delivery.objects.get() == newest
