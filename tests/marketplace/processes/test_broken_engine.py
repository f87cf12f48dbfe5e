"""A worker whose engine breaks gives its job back, takes no other, and asks to be ended."""

import signal
import threading

import pytest
from django.conf import settings
from redis import Redis

from devstack.processes import wait_until
from inference.engine import Engine
from inference.models import qwen_image
from marketplace.jobs import submission
from marketplace.jobs.models import Job
from marketplace.jobs.models import Worker as WorkerRow
from marketplace.jobs.worker import Worker

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("ledger_is_right")]


@pytest.fixture
def told_to_end():
    """Set once this process was sent a SIGTERM."""
    told = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda *_: told.set())
    yield told
    signal.signal(signal.SIGTERM, before)


def test_a_worker_whose_engine_broke_ends(alice, order, told_to_end):
    Redis.from_url(settings.REDIS_URL).flushall()
    broken = threading.Event()

    def load(card, device, profile):
        model = qwen_image.load(card, device, profile)
        model.transformer.register_forward_pre_hook(lambda *_: burst() if broken.is_set() else None)
        return model

    def burst():
        raise RuntimeError("device-side assert")

    worker = Worker(Engine(load=load))
    worker.start()
    broken.set()
    try:
        first = submission.submit(alice.account.id, order(width=128, height=128, steps=2)).job.id
        worker.fire(first)
        assert told_to_end.wait(10)
        second = submission.submit(alice.account.id, order(width=128, height=128, steps=2)).job.id
        worker.fire(second)
        assert set(Job.objects.values_list("status", "dispatched_at")) == {("queued", None)}
        assert alice.balance == (1_000_000 - 2 * Job.objects.get(id=first).quoted, 2 * Job.objects.get(id=first).quoted)
        assert wait_until(lambda: not WorkerRow.objects.get(name=worker.name).warm, 10)
    finally:
        worker.drain(0)
