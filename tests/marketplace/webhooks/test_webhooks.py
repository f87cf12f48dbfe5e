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
from marketplace.webhooks import endpoints, posting
from marketplace.webhooks.models import Delivery, Endpoint, EventType
from tests.marketplace.webhooks.making import ENDS, delivered, make

pytestmark = pytest.mark.django_db(transaction=True)


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


# --- who, and which ---


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
