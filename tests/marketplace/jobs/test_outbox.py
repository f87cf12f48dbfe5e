"""Queued rows become messages, once each, in order of their class; lost messages are sent again."""

from datetime import UTC, datetime, timedelta

import pytest
from django.conf import settings
from django.utils import timezone
from redis import Redis

from marketplace.jobs import lifecycle, outbox, submission, sweeper
from marketplace.jobs.models import Job, Worker

pytestmark = [pytest.mark.django_db]


@pytest.fixture
def broker():
    redis = Redis.from_url(settings.REDIS_URL)
    redis.flushall()
    yield redis
    redis.flushall()


def depth(broker):
    return {name: broker.llen(name) for name in ("interactive", "standard", "batch") if broker.llen(name)}


def submit(customer, order, count, service_class="standard"):
    return [submission.submit(customer.account.id, order(service_class=service_class)).job.id for _ in range(count)]


def send_long_ago():
    """Sends what waits as if a minute ago."""
    outbox.send_waiting(datetime.now(UTC) - timedelta(minutes=1))


def test_each_waiting_job_is_sent_once_to_the_queue_of_its_class(alice, order, broker):
    submit(alice, order, 3)
    submit(alice, order, 2, "interactive")
    assert outbox.send_waiting() == 5
    assert outbox.send_waiting() == 0
    assert depth(broker) == {"standard": 3, "interactive": 2}


def test_a_broker_that_is_away_loses_nothing(alice, order, broker):
    jobs = submit(alice, order, 2)

    def gone(waiting, sent):
        raise ConnectionError("the broker is away")

    with pytest.raises(ConnectionError):
        outbox.send_waiting(publish=gone)
    assert Job.objects.filter(id__in=jobs, dispatched_at=None).count() == 2
    assert outbox.send_waiting() == 2


def test_messages_lost_with_the_broker_are_sent_again_and_others_are_not(alice, order, broker):
    submit(alice, order, 3)
    send_long_ago()
    assert sweeper.sweep()["lost_messages"] == 0
    broker.flushall()
    assert sweeper.sweep()["lost_messages"] == 3
    assert outbox.send_waiting() == 3
    assert depth(broker) == {"standard": 3}


def test_a_lost_message_is_found_however_many_younger_ones_there_are(alice, order, broker):
    lost = submit(alice, order, 1)
    send_long_ago()
    broker.flushall()
    submit(alice, order, 5)
    outbox.send_waiting()
    broker.lpush("standard", *broker.lrange("standard", 0, -1))
    assert sweeper.sweep()["lost_messages"] == 1
    assert [job.id for job in Job.objects.filter(dispatched_at=None)] == lost
    outbox.send_waiting()
    assert sweeper.sweep()["lost_messages"] == 0


def test_a_message_on_its_way_is_not_taken_for_lost(alice, order, broker):
    submit(alice, order, 1)
    outbox.send_waiting()
    broker.flushall()
    assert sweeper.sweep()["lost_messages"] == 0


def test_a_flushed_broker_takes_new_messages_at_once(alice, order, broker):
    submit(alice, order, 1)
    outbox.send_waiting()
    broker.flushall()
    submit(alice, order, 1)
    assert outbox.send_waiting() == 1
    assert depth(broker) == {"standard": 1}


def test_a_failed_attempt_is_not_sent_again_before_its_time(alice, order, broker):
    (job_id,) = submit(alice, order, 1)
    job = lifecycle.claim(job_id, "w1")
    lifecycle.fail(job, "internal", "No.", retry=True, after=timedelta(hours=1))
    assert outbox.send_waiting() == 0
    Job.objects.update(not_before=datetime.now(UTC))
    assert outbox.send_waiting() == 1


@pytest.mark.parametrize("ahead", [-1, 1])
def test_clocks_of_machines_that_differ_decide_nothing(alice, order, broker, monkeypatch, client, ahead):
    """The dispatcher's clock is an hour off; the sweeper, the claim and /readyz go by the database's."""
    real = timezone.now
    monkeypatch.setattr(timezone, "now", lambda: real() + timedelta(hours=ahead))
    submit(alice, order, 3)
    assert outbox.send_waiting() == 3
    dispatched = Job.objects.values_list("dispatched_at", flat=True)
    assert all(abs(each - real()) < timedelta(minutes=1) for each in dispatched)
    broker.flushall()
    monkeypatch.setattr(sweeper, "IN_FLIGHT", timedelta(minutes=1))
    assert sweeper.sweep()["lost_messages"] == 0
    claimed = lifecycle.claim(Job.objects.first().id, "w1")
    lifecycle.fail(claimed, "engine_error", "again", retry=True, after=timedelta(minutes=5))
    assert abs(Job.objects.get(id=claimed.id).not_before - real() - timedelta(minutes=5)) < timedelta(minutes=1)
    Worker.objects.create(name="w1", model="m", revision="r", warm=True, seen_at=real())
    assert client.get("/readyz").json()["worker"] == "ok"
