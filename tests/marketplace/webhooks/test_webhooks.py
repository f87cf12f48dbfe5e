"""Webhooks as customers make them, and what their servers receive. Real HTTPS, real signatures."""

import json
import threading
import time
from datetime import timedelta

import openai
import pytest
from django.db import connection, transaction
from django.db.models.functions import Now
from standardwebhooks import Webhook, WebhookVerificationError

from marketplace.jobs import lifecycle, submission
from marketplace.jobs.models import Job
from marketplace.masking import mask
from marketplace.webhooks import deliveries, endpoints, posting
from marketplace.webhooks.models import Delivery, Endpoint, EventType

pytestmark = pytest.mark.django_db(transaction=True)
ENDS = ["job.succeeded", "job.failed", "job.canceled"]


def make(customer, receiver, path="/hook", types=ENDS, **more):
    answer = customer.post("/v1/webhooks", {"url": f"{receiver.url}{path}", "types": types, **more})
    assert answer.status_code == 201, answer.content
    return answer.json()


def delivered(customer, webhook):
    return customer.get(f"/v1/webhooks/{webhook['id']}/deliveries").json()["data"]


def due(**changes):
    Delivery.objects.filter(status="waiting").update(next_at=Now(), **changes)
    Endpoint.objects.update(paused_until=None)


# --- what is made ---


def test_a_webhook_is_made_seen_changed_and_deleted(alice, receiver):
    made = make(alice, receiver, description="our server")
    secret = made.pop("secret")
    assert secret.startswith("whsec_")
    path = f"/v1/webhooks/{made['id']}"
    assert alice.get(path).json() == made
    assert alice.get("/v1/webhooks").json() == {"data": [made]}
    changed = alice.patch(path, {"types": ["job.failed"], "url": f"{receiver.url}/other"}).json()
    assert (changed["types"], changed["url"]) == (["job.failed"], f"{receiver.url}/other")
    assert alice.patch(path, {"enabled": False}).json()["disabled_reason"] == "owner"
    assert alice.post(f"{path}/test").json()["error"]["code"] == "webhook_disabled"
    assert alice.patch(path, {"enabled": True}).json()["disabled_reason"] is None
    assert alice.delete(path).status_code == 204
    assert alice.get(path).status_code == 404
    assert secret.removeprefix("whsec_")[:10] not in mask(f"it was {secret} there")
    assert mask("whsec_ab+c/d=") == "whsec_…"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"url": "http://example.com/", "types": ENDS}, "url"),
        ({"url": "https://example.com:8443/", "types": ENDS}, "url"),
        ({"url": "https://me:you@example.com/", "types": ENDS}, "url"),
        ({"url": f"https://example.com/{'a' * 2048}", "types": ENDS}, "url"),
        ({"url": "https://example.com/", "types": []}, "types"),
        ({"url": "https://example.com/", "types": ["job.begun"]}, "types.0"),
        ({"url": "https://example.com/"}, "types"),
        ({"url": "https://example.com/", "types": ENDS, "secret": "mine"}, "secret"),
    ],
)
def test_what_cannot_be_a_webhook_is_refused(alice, body, param):
    answer = alice.post("/v1/webhooks", body)
    assert (answer.status_code, answer.json()["error"]["param"].split(".")[0]) == (422, param.split(".")[0])
    assert not Endpoint.objects.exists()


def test_an_account_has_no_more_webhooks_than_it_may(alice, receiver, bob):
    for _ in range(endpoints.MOST):
        made = make(alice, receiver)
    answer = alice.post("/v1/webhooks", {"url": receiver.url, "types": ENDS})
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "too_many_webhooks")
    make(bob, receiver)
    alice.delete(f"/v1/webhooks/{made['id']}")
    make(alice, receiver)


def test_the_webhooks_of_another_account_are_not_there(alice, bob, receiver, sender):
    mine = make(alice, receiver)
    sent = alice.post(f"/v1/webhooks/{mine['id']}/test").json()
    path = f"/v1/webhooks/{mine['id']}"
    asked = [
        bob.get(path), bob.patch(path, {"enabled": False}), bob.delete(path), bob.post(f"{path}/secret"),
        bob.post(f"{path}/test"), bob.get(f"{path}/deliveries"), bob.post(f"{path}/deliveries/{sent['id']}/replay"),
    ]  # fmt: skip
    assert {answer.status_code for answer in asked} == {404}
    own = make(bob, receiver)
    assert bob.post(f"/v1/webhooks/{own['id']}/deliveries/{sent['id']}/replay").status_code == 404
    assert bob.get("/v1/webhooks").json()["data"][0]["id"] == own["id"]
    assert sender.send() == 1


# --- what arrives ---


@pytest.mark.parametrize("how", ["succeeded", "failed", "canceled"])
def test_the_end_of_a_job_arrives_signed_as_its_owner_sees_it(alice, bob, receiver, sender, ends, how):
    """Verified by the specification's library and by the `openai` client, neither of them changed."""
    webhook, strangers = make(alice, receiver), make(bob, receiver, "/bob")
    job_id = ends(alice, how)
    assert sender.send() == 1
    (heard,) = receiver.heard
    event = heard.verify(webhook["secret"])
    assert set(event) == {"type", "timestamp", "data"}
    job = alice.get(f"/v1/jobs/{job_id}").json()
    for image in job["images"] + event["data"]["images"]:
        assert image.pop("url")
        image.pop("expires_at")
    assert (event["type"], event["data"]) == (f"job.{how}", job)
    client = openai.OpenAI(api_key="none", webhook_secret=webhook["secret"])
    client.webhooks.verify_signature(heard.text, heard.headers)
    assert client.webhooks.unwrap(heard.text, heard.headers).type == f"job.{how}"
    with pytest.raises(WebhookVerificationError):
        heard.verify(strangers["secret"])
    (row,) = delivered(alice, webhook)
    assert (row["status"], row["attempts"], row["answer_status"], row["job"]) == ("delivered", 1, 200, str(job_id))
    assert (row["event"], len(row["answer"])) == (heard.headers["webhook-id"], 500)


def test_only_the_chosen_types_arrive_and_nothing_is_written_for_others(alice, receiver, sender, ends):
    make(alice, receiver, types=["job.failed"])
    ends(alice, "succeeded")
    assert not Delivery.objects.exists()
    ends(alice, "failed")
    sender.send()
    assert [each.event["type"] for each in receiver.heard] == ["job.failed"]


def test_what_is_rolled_back_is_not_told(alice, receiver, ends, order):
    make(alice, receiver)
    job_id = submission.submit(alice.account.id, order()).job.id
    with transaction.atomic():
        lifecycle.cancel(alice.account.id, job_id)
        assert Delivery.objects.exists()
        transaction.set_rollback(True)
    assert not Delivery.objects.exists()


def test_a_job_that_expires_or_is_canceled_after_its_worker_left_is_told_too(alice, receiver, sender, order):
    make(alice, receiver)
    from billing.models import Hold

    submission.submit(alice.account.id, order())
    Hold.objects.update(expires_at=Now() - timedelta(seconds=1))
    assert lifecycle.expire_holds() == 1
    job = lifecycle.claim(submission.submit(alice.account.id, order()).job.id, "a worker")
    lifecycle.cancel(alice.account.id, job.id)
    lifecycle.give_back(job)
    sender.send()
    assert sorted(each.event["type"] for each in receiver.heard) == ["job.canceled", "job.failed"]


def test_a_job_that_was_forgotten_meanwhile_is_told_without_its_words(alice, receiver, sender, ends):
    webhook = make(alice, receiver)
    job_id = ends(alice, prompt="a secret circle")
    assert alice.delete(f"/v1/jobs/{job_id}").status_code == 204
    assert sender.send() == 1
    event = receiver.heard[0].verify(webhook["secret"])
    assert (event["type"], event["data"]["id"], event["data"]["images"]) == ("job.succeeded", str(job_id), [])
    assert "secret circle" not in receiver.heard[0].text


def test_an_order_names_an_address_of_its_own(alice, bob, receiver, sender, ends):
    secret = alice.post("/v1/account/webhook-secret").json()["secret"]
    ends(alice, webhook_url=f"{receiver.url}/orders?a=1")
    sender.send()
    (heard,) = receiver.heard
    assert (heard.path, heard.verify(secret)["type"]) == ("/orders?a=1", "job.succeeded")
    (row,) = alice.get("/v1/account/webhook-deliveries").json()["data"]
    assert (row["status"], row["event"]) == ("delivered", heard.headers["webhook-id"])
    assert bob.get("/v1/account/webhook-deliveries").json()["data"] == []
    newer = alice.post("/v1/account/webhook-secret").json()["secret"]
    ends(alice, webhook_url=f"{receiver.url}/orders")
    sender.send()
    assert receiver.heard[1].verify(secret) == receiver.heard[1].verify(newer)


def test_an_address_in_any_way_of_writing_ends_no_job_otherwise(alice, bob, receiver, sender, ends):
    """What a customer wrote must never keep a job from ending."""
    shouted = receiver.url.replace("https://localhost", "HTTPS://LOCALHOST")
    job_id = ends(alice, webhook_url=f"{shouted}/orders")
    lane = Delivery.objects.get().lane
    ends(alice, webhook_url=f"{receiver.url}/orders")
    assert {row.lane for row in Delivery.objects.all()} == {lane}
    assert alice.get(f"/v1/jobs/{job_id}").json()["status"] == "succeeded"
    assert sender.send() == len(receiver.heard) == 2


def test_an_endpoint_that_is_deleted_while_a_job_ends_disturbs_neither(alice, receiver, order):
    webhook = make(alice, receiver)
    job_id = submission.submit(alice.account.id, order()).job.id
    answers = []

    def remove():
        answers.append(alice.delete(f"/v1/webhooks/{webhook['id']}").status_code)
        connection.close()

    with transaction.atomic():
        lifecycle.cancel(alice.account.id, job_id)
        thread = threading.Thread(target=remove)
        thread.start()
        time.sleep(0.3)
        assert answers == []
    thread.join()
    assert answers == [204]
    assert not Delivery.objects.exists()
    assert alice.get(f"/v1/jobs/{job_id}").json()["status"] == "canceled"


def test_the_address_of_an_order_is_checked_told_apart_and_changes_no_picture(alice, order):
    body = {"prompt": "a red circle", "seed": 7, "webhook_url": "https://example.com/a"}
    first = alice.post("/v1/jobs", body, Idempotency_Key="one")
    assert first.status_code == 202
    assert alice.post("/v1/jobs", body, Idempotency_Key="one").json()["id"] == first.json()["id"]
    other = alice.post("/v1/jobs", {**body, "webhook_url": "https://example.com/b"}, Idempotency_Key="one")
    assert other.json()["error"]["code"] == "idempotency_key_reused"
    for bad in ("http://example.com/", "ftp://example.com/", "https://example.com:22/", "nowhere"):
        refused = alice.post("/v1/jobs", {**body, "webhook_url": bad})
        assert (refused.status_code, refused.json()["error"]["param"]) == (422, "webhook_url")
    from marketplace.jobs.reuse import picture_key

    job = Job.objects.get(id=first.json()["id"])
    key = picture_key(job, "1")
    job.order["webhook_url"] = None
    assert picture_key(job, "1") == key
    del job.order["webhook_url"]
    assert picture_key(job, "1") == key


def test_an_event_that_would_be_too_large_leaves_out_what_is_long(alice, receiver, sender, ends):
    webhook = make(alice, receiver)
    ends(alice, prompt="𝔁" * 4000, negative_prompt="𝔂" * 4000, metadata={"a": "b"})
    sender.send()
    (heard,) = receiver.heard
    data = heard.verify(webhook["secret"])["data"]
    assert len(heard.text.encode()) <= posting.LARGEST
    assert data["left_out"] == ["negative_prompt"]
    assert ("negative_prompt" in data, data["metadata"]) == (False, {"a": "b"})


# --- secrets ---


def test_both_secrets_sign_for_a_day_after_a_rotation(alice, receiver, sender):
    webhook = make(alice, receiver)
    newer = alice.post(f"/v1/webhooks/{webhook['id']}/secret").json()["secret"]
    assert newer != webhook["secret"]
    alice.post(f"/v1/webhooks/{webhook['id']}/test")
    sender.send()
    heard = receiver.heard[0]
    assert heard.verify(webhook["secret"]) == heard.verify(newer)
    assert heard.event["type"] == "webhook.test"
    assert alice.get(f"/v1/webhooks/{webhook['id']}").json()["previous_secret_until"]
    Endpoint.objects.update(previous_until=Now())
    alice.post(f"/v1/webhooks/{webhook['id']}/test")
    sender.send()
    receiver.heard[1].verify(newer)
    with pytest.raises(WebhookVerificationError):
        receiver.heard[1].verify(webhook["secret"])


def test_the_database_alone_does_not_reveal_a_secret(alice, receiver, settings):
    from marketplace.webhooks import signatures

    webhook = make(alice, receiver)
    seed = Endpoint.objects.get().seed
    assert signatures.secret(seed) == webhook["secret"]
    settings.SECRET_KEY = "another"
    assert signatures.secret(seed) != webhook["secret"]
    assert len(Webhook(webhook["secret"])._whsecret) == 32


# --- again ---


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


def test_a_key_with_a_cap_reads_webhooks_and_changes_none(alice, receiver):
    from marketplace.accounts import keys
    from tests.marketplace.people import Customer

    webhook = make(alice, receiver)
    row, text = keys.issue(alice.account.id, "capped", daily_cap=1000)
    capped = Customer(alice.account, text, row.id)
    path = f"/v1/webhooks/{webhook['id']}"
    refused = [
        capped.post("/v1/webhooks", {"url": receiver.url, "types": ENDS}), capped.patch(path, {"enabled": False}),
        capped.delete(path), capped.post(f"{path}/secret"), capped.post("/v1/account/webhook-secret"),
        capped.patch("/v1/account/notifications", {"language": "de"}),
    ]  # fmt: skip
    assert {answer.json()["error"]["code"] for answer in refused} == {"capped_key"}
    assert capped.get(path).status_code == 200


def test_every_type_can_be_chosen(alice, receiver):
    assert make(alice, receiver, types=EventType.values)["types"] == EventType.values
    assert json.dumps(EventType.values)
