"""A worker whose engine breaks gives its job back, takes no other, and asks to be ended."""

import os
import signal

import pytest
from django.conf import settings
from redis import Redis

from devstack.processes import wait_until
from marketplace.jobs import submission
from marketplace.jobs.models import Job
from marketplace.jobs.models import Worker as WorkerRow
from marketplace.jobs.worker import Worker

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("ledger_is_right")]


def test_a_worker_whose_engine_broke_ends(alice, order, monkeypatch):
    Redis.from_url(settings.REDIS_URL).flushall()
    signals = []
    worker = Worker()
    worker.start()
    monkeypatch.setattr(os, "kill", lambda pid, number: signals.append((pid, number)))

    def burst(batch):
        raise RuntimeError("no memory left")

    monkeypatch.setattr(worker.engine._scheduler, "advance", burst)
    try:
        first = submission.submit(alice.account.id, order(width=128, height=128, steps=2)).job.id
        worker.fire(first)
        assert wait_until(lambda: signals != [], 10)
        assert signals == [(os.getpid(), signal.SIGTERM)]
        second = submission.submit(alice.account.id, order(width=128, height=128, steps=2)).job.id
        worker.fire(second)
        assert set(Job.objects.values_list("status", "dispatched_at")) == {("queued", None)}
        assert alice.balance == (1_000_000 - 2 * Job.objects.get(id=first).quoted, 2 * Job.objects.get(id=first).quoted)
        assert wait_until(lambda: not WorkerRow.objects.get(name=worker.name).warm, 10)
    finally:
        worker.drain(0)
