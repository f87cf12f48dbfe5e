"""Real dispatcher, broker, Celery workers and engine: pictures get made, whatever is killed or lost on the way."""

import contextlib
import random
import signal
import time
from decimal import Decimal

import pytest
from django.conf import settings
from PIL import Image as Pixels
from redis import Redis

from billing.amounts import parse_tokens
from billing.models import Transfer
from billing.tokens import wallets
from devstack import processes
from marketplace.jobs import lifecycle, storage, submission, turns
from marketplace.jobs.errors import NotCancelable
from marketplace.jobs.models import Job
from tests.marketplace.sites import Site, until_ended

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("ledger_is_right")]


@pytest.fixture
def site(tmp_path, transactional_db):
    """Dispatcher and beat; workers are started by the tests."""
    Redis.from_url(settings.REDIS_URL).flushall()
    found = Site(tmp_path)
    try:
        for name in ("dispatcher", "maintenance", "beat"):
            found.start(name)
        yield found
    finally:
        found.stop()


def submit(customer, wanted):
    return submission.submit(customer.account.id, wanted).job.id


def at_step(job_id, step):
    return lambda: Job.objects.get(id=job_id).step >= step


def test_a_job_is_drawn_charged_canceled_and_handed_over(site, alice, order):
    site.start("worker")
    site.warm()

    drawn = submit(alice, order(n=2, width=128, height=128, steps=4))
    until_ended(site, [drawn], 60)
    job = Job.objects.get(id=drawn)
    assert (job.status, job.captured, job.step) == ("succeeded", job.quoted, 8)
    pictures = [Pixels.open(storage.open_image(image)) for image in job.images.all()]
    assert [picture.size for picture in pictures] == [(128, 128), (128, 128)]
    assert pictures[0].tobytes() != pictures[1].tobytes()

    stopped = submit(alice, order(width=512, height=512, steps=100))
    assert processes.wait_until(at_step(stopped, 1), 60)
    lifecycle.cancel(alice.account.id, stopped)
    until_ended(site, [stopped], 30)
    job = Job.objects.get(id=stopped)
    assert job.status == "canceled"
    assert 1 <= job.step < 100
    assert job.captured == job.quoted * job.step // 100

    # SIGTERM: what cannot end within the drain time is given back, and another worker takes it at once.
    long = submit(alice, order(width=256, height=256, steps=100))
    assert processes.wait_until(at_step(long, 1), 60)
    left = time.monotonic()
    site.kill("worker", signal.SIGTERM)
    assert time.monotonic() - left < 15
    job = Job.objects.get(id=long)
    assert (job.status, job.attempt, job.step) == ("queued", 0, 0)
    site.start("second", "worker")
    until_ended(site, [long], 120)
    job = Job.objects.get(id=long)
    assert (job.status, job.attempt) == ("succeeded", 1)
    assert alice.balance == (1_000_000 - sum(Job.objects.values_list("captured", flat=True)), 0)


@pytest.mark.deep
def test_whatever_moment_a_job_is_canceled_at_what_is_charged_whole_is_there(site, alice, order):
    """Pictures drawn one after the other, canceled when one is finished, and single ones canceled at random."""
    site.start("worker")
    site.warm()
    several = submit(alice, order(n=4, width=128, height=128, steps=100, deterministic=True))
    assert processes.wait_until(at_step(several, 105), 120)
    shown = alice.get(f"/v1/jobs/{several}").json()
    assert Decimal(shown["cancel_cost"]) >= Decimal(shown["quote"]["unit"])
    stop(alice, several)
    single, dice = [], random.Random(7)
    for seed in range(40):
        single.append(submit(alice, order(width=64, height=64, steps=3, seed=seed)))
        time.sleep(dice.random() / 10)
        stop(alice, single[-1])
    until_ended(site, [several, *single], 120)
    for job in Job.objects.all():
        unit = job.quoted // job.n
        assert job.images.count() == sum(each["delivered"] for each in (job.receipt or {"images": []})["images"])
        assert len(alice.get(f"/v1/jobs/{job.id}").json()["images"]) == job.images.count()
        assert job.captured // unit == job.images.count()
        assert (job.status == "succeeded") == (job.images.count() == job.n)
    job = Job.objects.get(id=several)
    assert job.images.count() >= 1
    assert job.captured >= parse_tokens(shown["cancel_cost"])


@pytest.mark.deep
def test_long_jobs_of_one_account_keep_neither_another_nor_a_higher_class_waiting(site, alice, bob, order, monkeypatch):
    wallets.grant(bob.account.id, 1_000_000, "some")
    long = [submit(alice, order(steps=100, service_class="batch", seed=seed)) for seed in range(24)]
    monkeypatch.setenv("KILN_WORKER_THREADS", "4")
    site.start("worker")
    site.warm()
    assert processes.wait_until(lambda: Job.objects.filter(status="running").count() == 2, 60), "half of the hands"
    quick = {"width": 128, "height": 128, "steps": 4}
    urgent = submit(alice, order(**quick, service_class="interactive"))
    until_ended(site, [urgent], 30)
    assert Job.objects.get(id=urgent).status == "succeeded"
    modest = submit(bob, order(**quick, service_class="batch"))
    assert processes.wait_until(lambda: turns.queue_position(Job.objects.get(id=modest)) == 2, 10)
    for job_id in long[:2]:
        stop(alice, job_id)
    until_ended(site, [modest], 30)
    assert Job.objects.filter(id__in=long, status="queued").count() >= 20
    for job_id in long:
        stop(alice, job_id)
    until_ended(site, long, 30)


def stop(customer, job_id):
    with contextlib.suppress(NotCancelable):  # it may have ended by now
        lifecycle.cancel(customer.account.id, job_id)


@pytest.mark.deep
def test_redis_is_flushed_and_workers_are_killed_in_mid_job(site, alice, order, full):
    redis, dice = Redis.from_url(settings.REDIS_URL), random.Random(5)
    for name in ("first", "second"):
        site.start(name, "worker")
    site.warm(2)
    jobs = [
        submit(
            alice,
            order(
                n=dice.randint(1, 2),
                width=128,
                height=128,
                steps=dice.randint(10, 40),
                seed=seed,
                service_class=dice.choice(["interactive", "standard", "batch"]),
            ),
        )
        for seed in range(40 if full else 16)
    ]
    victims = ("first", "second", "first") if full else ("first",)
    for left, victim in zip(reversed(range(len(victims))), victims, strict=True):
        assert processes.wait_until(lambda: Job.objects.filter(status="running", step__gt=0).exists(), 60), site.logs()
        redis.flushall()
        site.kill(victim)
        redis.flushall()
        site.start(victim, "worker")
        if left:
            site.warm(2)
            jobs += [submit(alice, order(width=128, height=128, steps=30, seed=100 + i)) for i in range(8)]
    until_ended(site, jobs, 180)

    ended = list(Job.objects.prefetch_related("images"))
    assert {job.status for job in ended} <= {"succeeded", "failed"}
    assert max(job.attempt for job in ended) > 1, "nothing was interrupted"
    charged = Transfer.objects.filter(kind="capture")
    succeeded = [job for job in ended if job.status == "succeeded"]
    assert sorted(charged.values_list("reference", flat=True)) == sorted(job.id for job in succeeded)
    for job in succeeded:
        assert job.captured == job.quoted
        assert [image.index for image in job.images.all()] == list(range(job.n))
        for image in job.images.all():
            assert len(storage.open_image(image).read()) == image.size
    assert alice.balance == (1_000_000 - sum(job.captured for job in ended), 0)
