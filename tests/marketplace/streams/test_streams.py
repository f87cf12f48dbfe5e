"""Server-sent events and waiting orders: what a client hears of a job, in which order, and what it costs to wait."""

import asyncio
import json
import threading
import time

import pytest
from django.conf import settings as django
from redis import Redis

from devstack import processes
from marketplace.api.later import Stream
from marketplace.jobs import lifecycle, news
from marketplace.jobs.models import Job
from marketplace.jobs.news import Preview, Progress
from tests.marketplace.people import restrict
from tests.marketplace.streams import servers

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("ledger_is_right")]
ORDER = {"prompt": "a red circle", "width": 256, "height": 256, "steps": 20, "seed": 7}


@pytest.fixture
def server(transactional_db):
    with servers.serving() as found:
        yield found


def buy(customer):
    return customer.post("/v1/jobs", ORDER).json()["id"]


def watch(server, customer, job_id, **headers):
    stream = server.ask("GET", f"/v1/jobs/{job_id}/events", customer, **headers)
    return stream.wait(lambda self: self.status and self.body)


def sent(job_id):
    Job.objects.filter(id=job_id).update(dispatched_at="2026-01-01T00:00:00Z", tag=0)


def claim(job_id):
    sent(job_id)
    job = lifecycle.claim(job_id, "worker")
    assert str(job.id) == job_id
    return job


def named(stream, name):
    return [event for event in stream.events if event["event"] == name]


def tell(job_id, said):
    """As a worker does; how many heard it."""
    with Redis.from_url(django.REDIS_URL) as redis:
        return news.publish(redis, [(job_id, said)])[0]


def test_a_stream_tells_a_jobs_life_and_ends_with_the_job_as_get_shows_it(server, alice, picture):
    first, job_id = buy(alice), buy(alice)
    stream = watch(server, alice, job_id)
    assert stream.status == 200
    assert stream.headers["content-type"] == "text/event-stream"
    assert stream.headers["cache-control"] == "no-cache"
    assert stream.headers["x-accel-buffering"] == "no"
    assert "etag" not in stream.headers
    assert "content-length" not in stream.headers
    assert stream.headers["x-request-id"]
    assert stream.body.startswith(b"retry: 2000\n\n")
    assert stream.events[0] == {
        "id": "0.queued.2",
        "event": "queued",
        "data": {"status": "queued", "queue_position": 2},
    }

    assert alice.post(f"/v1/jobs/{first}/cancel").status_code == 200
    stream.wait(lambda self: any(event["data"]["queue_position"] == 1 for event in named(self, "queued")))
    job = claim(job_id)
    stream.wait(lambda self: named(self, "running"))
    assert named(stream, "running")[0]["data"] == {"status": "running", "progress": {"step": 0, "steps": 20}}
    assert processes.wait_until(lambda: tell(job.id, Progress(1, 5)), 10)
    stream.wait(lambda self: named(self, "running")[-1]["data"]["progress"]["step"] == 5)
    tell(job.id, Preview(1, 0, 5, "/9j/"))
    stream.wait(lambda self: named(self, "preview"))
    assert named(stream, "preview")[0]["data"] == {"index": 0, "step": 5, "image": "data:image/jpeg;base64,/9j/"}

    lifecycle.complete(job, [picture(job)], {})
    stream.done()
    last = stream.events[-1]
    assert (last["id"], last["event"]) == ("ended", "ended")
    shown = alice.get(f"/v1/jobs/{job_id}").json()
    assert last["data"].keys() == shown.keys()
    assert last["data"]["status"] == "succeeded"
    assert last["data"]["cost"] == shown["cost"]
    assert last["data"]["images"][0]["sha256"] == shown["images"][0]["sha256"]
    assert last["data"]["images"][0]["url"].startswith("http://127.0.0.1/images/")
    ids = [event["id"] for event in stream.events]
    assert len(ids) == len(set(ids))


def test_whoever_comes_back_hears_where_it_is_now_and_nothing_twice(server, alice, picture):
    job_id = buy(alice)
    job = claim(job_id)
    stream = watch(server, alice, job_id)
    assert stream.events[0]["id"] == "1.running.0"
    stream.leave()
    back = watch(server, alice, job_id, Last_Event_ID="1.running.0")
    assert back.events == []
    lifecycle.heartbeat("worker", {job.id: lifecycle.Progress(1, 7, 0)})
    back.wait(lambda self: self.events)
    assert back.events[0]["data"]["progress"]["step"] == 7
    lifecycle.complete(job, [picture(job)], {})
    back.done()
    again = watch(server, alice, job_id, Last_Event_ID=back.events[0]["id"]).done()
    assert [event["event"] for event in again.events] == ["ended"]
    over = server.ask("GET", f"/v1/jobs/{job_id}/events", alice, Last_Event_ID="ended").done()
    assert (over.status, over.body) == (204, b"")
    strange = watch(server, alice, job_id, Last_Event_ID="ünknown").done()
    assert [event["event"] for event in strange.events] == ["ended"]


@pytest.mark.parametrize("how", ["canceled", "failed", "expired", "given back", "lost"])
def test_every_way_that_a_job_takes_is_told(how, server, alice):
    job_id = buy(alice)
    if how not in {"canceled", "expired"}:
        job = claim(job_id)
    stream = watch(server, alice, job_id)
    if how == "canceled":
        alice.post(f"/v1/jobs/{job_id}/cancel")
    elif how == "failed":
        lifecycle.fail(job, "internal", "It broke.", retry=False)
    elif how == "expired":
        from billing.models import Hold

        Hold.objects.update(expires_at="2026-01-01T00:00:00Z")
        assert lifecycle.expire_holds() == 1
    elif how == "given back":
        lifecycle.give_back(job)
        stream.wait(lambda self: self.events[-1]["event"] == "queued")
        return
    else:
        Job.objects.update(lease_expires_at="2026-01-01T00:00:00Z")
        assert lifecycle.expire_leases() == 1
        stream.wait(lambda self: self.events[-1]["event"] == "queued")
        return
    status = "canceled" if how == "canceled" else "failed"
    stream.done()
    assert [event["data"]["status"] for event in named(stream, "ended")] == [status]
    assert stream.events[-1]["data"] == alice.get(f"/v1/jobs/{job_id}").json() | {"images": []}


def test_anothers_job_and_one_without_a_key_are_refused_as_everywhere(server, alice, bob):
    job_id = buy(alice)
    for answer in (
        server.ask("GET", f"/v1/jobs/{job_id}/events", bob, Accept="text/event-stream"),
        server.ask("GET", "/v1/jobs/01a1fc35-d9b0-7c28-b357-b63e93188538/events", alice),
    ):
        assert answer.json()["error"]["code"] == "not_found"
        assert answer.status == 404
        assert answer.headers["x-request-id"] == answer.json()["error"]["request_id"]
    alice.key = "kiln_wrong"
    answer = server.ask("GET", f"/v1/jobs/{job_id}/events", alice)
    assert answer.json()["error"]["code"] == "invalid_api_key"
    assert answer.status == 401


def test_head_and_other_methods_do_not_stream(server, alice):
    job_id = buy(alice)
    assert server.ask("HEAD", f"/v1/jobs/{job_id}/events", alice).done().status == 200
    assert server.ask("OPTIONS", f"/v1/jobs/{job_id}/events", alice).done().status == 200
    assert server.ask("POST", f"/v1/jobs/{job_id}/events", alice, {}).done().status == 405


def test_the_web_server_answers_with_where_the_job_is_and_the_client_comes_back(alice, picture):
    job_id = buy(alice)
    answer = alice.get(f"/v1/jobs/{job_id}/events", Accept="text/event-stream")
    assert [event["event"] for event in servers.read(answer.content)] == ["queued"]
    lifecycle.complete(claim(job_id), [picture(Job.objects.get(id=job_id))], {})
    answer = alice.get(f"/v1/jobs/{job_id}/events", Last_Event_ID="0.queued.1")
    assert [event["event"] for event in servers.read(answer.content)] == ["ended"]


def test_a_silent_stream_is_kept_open_by_comments(server, alice, monkeypatch):
    monkeypatch.setattr("marketplace.streams.application.KEEP_ALIVE_SECONDS", 0.2)
    stream = watch(server, alice, buy(alice))
    stream.wait(lambda self: self.body.count(b":\n\n") >= 2)
    assert [event["event"] for event in stream.events] == ["queued"]


def test_a_server_that_is_to_stop_ends_streams_and_answers_waiting_orders_at_once(server, alice):
    job_id = buy(alice)
    stream = watch(server, alice, job_id)
    order = server.ask("POST", "/v1/jobs", alice, ORDER, Prefer="wait=60")
    assert processes.wait_until(lambda: Job.objects.count() == 2, 10)
    assert not order.ended
    server.close()
    assert [event["event"] for event in stream.done(5).events] == ["queued"]
    assert order.done(5).status == 202


def test_without_redis_streams_go_on_by_looking(alice, picture, settings):
    settings.REDIS_URL = "redis://127.0.0.1:9/0"
    with servers.serving() as server:
        job_id = buy(alice)
        stream = watch(server, alice, job_id)
        job = claim(job_id)
        stream.wait(lambda self: named(self, "running"))
        began = time.monotonic()
        lifecycle.complete(job, [picture(job)], {})
        assert time.monotonic() - began < 1, "a job waited for Redis"
        assert stream.done().events[-1]["data"]["status"] == "succeeded"


def test_a_message_that_is_no_news_harms_nobody(server, alice):
    job_id = buy(alice)
    stream = watch(server, alice, job_id)
    with Redis.from_url(django.REDIS_URL) as redis:
        for nonsense in (
            "",
            "{",
            "[]",
            '{"kind": "progress"}',
            json.dumps({"kind": "progress", "attempt": 9, "step": 3}),
        ):
            redis.publish(news.channel(job_id), nonsense)
    alice.post(f"/v1/jobs/{job_id}/cancel")
    assert [event["event"] for event in stream.done().events] == ["queued", "ended"]


def test_sixty_streams_and_waiting_orders_take_no_thread_each(server, alice, picture):
    job_id = buy(alice)
    watch(server, alice, job_id)
    before = threading.active_count()
    streams = [watch(server, alice, job_id) for _ in range(60)]
    orders = [server.ask("POST", "/v1/jobs", alice, ORDER, Prefer="wait=60", Idempotency_Key="one") for _ in range(20)]
    assert processes.wait_until(lambda: server.application._open.total() == 81, 20)
    assert threading.active_count() <= before + 8
    ended = Job.objects.get(idempotency_key="one")
    job = claim(job_id)
    lifecycle.complete(job, [picture(job)], {})
    assert {stream.done().events[-1]["event"] for stream in streams} == {"ended"}
    alice.post(f"/v1/jobs/{ended.id}/cancel")
    assert {order.done().status for order in orders} == {200}
    assert Job.objects.count() == 2
    assert processes.wait_until(lambda: not server.application._open, 5)
    assert not server.application.hub._watches


def test_a_client_that_does_not_read_loses_its_place(server, alice, monkeypatch):
    monkeypatch.setattr("marketplace.streams.application.SEND_SECONDS", 0.3)

    class Frozen(servers.Exchange):
        async def _take(self, message):
            await super()._take(message)
            if self.body:
                await asyncio.sleep(3600)

    stream = Frozen(server, "GET", f"/v1/jobs/{buy(alice)}/events", alice, None, True, {})
    stream.wait(lambda self: self.status and self.body)
    assert processes.wait_until(lambda: not server.application._open, 5)
    assert not server.application.hub._watches


def test_too_many_streams_of_an_account_are_refused_and_orders_answered_at_once(server, alice, settings):
    settings.STREAMS = 4
    job_id = buy(alice)
    kept = [watch(server, alice, job_id) for _ in range(2)]
    refused = server.ask("GET", f"/v1/jobs/{job_id}/events", alice)
    assert refused.json()["error"]["code"] == "too_many_streams"
    assert (refused.status, refused.headers["retry-after"]) == (429, "5")
    assert server.ask("POST", "/v1/jobs", alice, ORDER, Prefer="wait=60").done(10).status == 202
    kept[0].leave()
    assert processes.wait_until(lambda: server.application._open.total() == 1, 10)
    assert watch(server, alice, job_id).status == 200


def test_an_order_whose_stream_cannot_be_is_not_refused_but_answered_with_its_job(server, alice, picture):
    """It was bought: whoever took it for refused would buy it again."""
    restrict(alice, streams=1)
    kept = watch(server, alice, buy(alice))
    order = {"prompt": "a blue square", "stream": True}
    answer = server.ask("POST", "/v1/images/generations", alice, order).done()
    assert (answer.status, answer.json()["error"]["code"]) == (503, "in_progress")
    assert answer.headers["content-type"] == "application/json"
    job_id = answer.headers["location"].rpartition("/")[2]
    kept.leave()
    again = server.ask("POST", "/v1/images/generations", alice, order, X_Stainless_Retry_Count="1")
    assert processes.wait_until(lambda: again.status, 10)
    job = claim(job_id)
    lifecycle.complete(job, [picture(job)], {})
    assert again.done().events[-1]["event"] == "image_generation.completed"
    assert Job.objects.count() == 2


def test_a_stream_that_is_refused_is_told_so_as_every_answer_is(server, alice, settings):
    """With the limits, and so that a site's script can read it."""
    settings.STREAMS = 2
    assert alice.patch("/v1/account", {"origins": ["https://app.example.com"]}).status_code == 200
    job_id = buy(alice)
    kept = server.ask("GET", f"/v1/jobs/{job_id}/events", alice, Origin="https://app.example.com")
    kept.wait(lambda self: self.status and self.body)
    refused = server.ask("GET", f"/v1/jobs/{job_id}/events", alice, Origin="https://app.example.com").done()
    assert (refused.status, refused.headers["content-type"]) == (429, "application/json")
    for name in ("ratelimit-policy", "ratelimit", "access-control-allow-origin", "access-control-expose-headers"):
        assert name in refused.headers, name
    assert refused.headers["access-control-allow-origin"] == "https://app.example.com"
    assert int(refused.headers["content-length"]) == len(refused.body)
    kept.leave()


def test_no_more_streams_than_the_server_is_for(server, alice, bob, settings):
    settings.STREAMS = 2
    server.application._open[bob.account.id, Stream] = 2
    refused = server.ask("GET", f"/v1/jobs/{buy(alice)}/events", alice)
    assert refused.json()["error"]["code"] == "too_many_streams"
    assert (refused.status, refused.headers["retry-after"]) == (503, "5")
    assert refused.headers["x-request-id"] == refused.json()["error"]["request_id"]


def test_an_accounts_tier_says_how_many_streams_it_may_have(server, alice):
    restrict(alice, streams=1)
    job_id = buy(alice)
    order = server.ask("POST", "/v1/jobs", alice, ORDER, Prefer="wait=60")
    assert processes.wait_until(lambda: server.application._open.total() == 1, 10)
    kept = watch(server, alice, job_id)
    refused = server.ask("GET", f"/v1/jobs/{job_id}/events", alice).done()
    assert (refused.status, refused.json()["error"]["code"]) == (429, "too_many_streams")
    kept.leave()
    order.leave()


def test_an_order_that_waits_is_answered_200_with_its_pictures(server, alice, picture):
    order = server.ask("POST", "/v1/jobs", alice, ORDER, Prefer="respond-async, wait=60", Idempotency_Key="mine")
    assert processes.wait_until(lambda: Job.objects.exists(), 10)
    job = claim(str(Job.objects.get().id))
    lifecycle.complete(job, [picture(job)], {})
    body = order.json()
    assert order.status == 200
    assert order.headers["preference-applied"] == "wait"
    assert order.headers["location"] == f"/v1/jobs/{job.id}"
    assert order.headers["content-length"] == str(len(order.body))
    assert order.headers["content-type"] == "application/json"
    shown = alice.get(f"/v1/jobs/{job.id}").json()
    assert body | {"images": []} == shown | {"images": []}
    assert body["images"][0]["sha256"] == shown["images"][0]["sha256"]
    again = server.ask("POST", "/v1/jobs", alice, ORDER, Prefer="wait=5", Idempotency_Key="mine")
    assert again.json()["id"] == str(job.id)
    assert (again.status, again.headers["idempotent-replayed"]) == (200, "true")


def test_an_order_whose_time_is_up_is_answered_202_as_it_is_then(server, alice):
    began = time.monotonic()
    order = server.ask("POST", "/v1/jobs", alice, ORDER, Prefer="wait=2")
    assert processes.wait_until(lambda: Job.objects.exists(), 10)
    claim(str(Job.objects.get().id))
    assert order.json()["status"] == "running"
    assert order.status == 202
    assert "preference-applied" not in order.headers
    assert time.monotonic() - began >= 2


def test_an_order_that_is_refused_does_not_wait(server, alice, bob):
    poor = server.ask("POST", "/v1/jobs", bob, ORDER, Prefer="wait=60")
    assert poor.json()["error"]["code"] == "insufficient_tokens"
    assert poor.status == 402
    wrong = server.ask("POST", "/v1/jobs", alice, ORDER | {"steps": "20"}, Prefer="wait=60")
    assert wrong.done().status == 422
    assert not Job.objects.exists()


def test_a_client_that_leaves_while_it_waits_leaves_nothing_behind(server, alice):
    order = server.ask("POST", "/v1/jobs", alice, ORDER, Prefer="wait=60")
    assert processes.wait_until(lambda: server.application._open.total() == 1, 10)
    order.leave()
    assert processes.wait_until(lambda: not server.application._open, 10)
    assert Job.objects.get().status == "queued"


def test_bodies_are_bounded_before_they_are_read(server, alice):
    large = server.ask("POST", "/v1/jobs", alice, Content_Length=str(10**9), Prefer="wait=60")
    assert large.json()["error"]["code"] == "body_too_large"
    assert large.status == 413
    endless = server.ask("POST", "/v1/jobs", alice, Transfer_Encoding="chunked")
    assert endless.json()["error"]["code"] == "length_required"
    assert endless.status == 411


def test_a_body_that_does_not_arrive_is_given_up(server, alice, monkeypatch):
    monkeypatch.setattr("marketplace.streams.application.BODY_SECONDS", 0.2)
    slow = server.ask("POST", "/v1/jobs", alice, arrives=False, Content_Length="100")
    assert slow.json()["error"]["code"] == "too_slow"
    assert slow.status == 408
    assert slow.headers["x-request-id"] == slow.json()["error"]["request_id"]
