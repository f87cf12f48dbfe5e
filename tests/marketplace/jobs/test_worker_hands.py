"""What a worker does with what comes out of its engine, without an engine: who pays, and whose heartbeat it is."""

import threading
from concurrent.futures import Future
from types import SimpleNamespace

import pytest

from inference.errors import AdapterUnavailable, BrokenPicture, Canceled, EngineFault, EngineStopped
from marketplace.jobs import lifecycle, submission
from marketplace.jobs.models import Job
from marketplace.jobs.worker import Task, Worker, _steps_to_pay

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("ledger_is_right")]


@pytest.fixture
def worker():
    """Everything of a worker but its engine and its beat."""
    found = Worker.__new__(Worker)
    found.name, found.tasks, found.lock = "w1", {}, threading.Lock()
    found.leaving, found.engine = threading.Event(), SimpleNamespace(warm=True)
    found.card = SimpleNamespace(revision="r1")
    return found


def ended(error=None):
    future = Future()
    future.set_result(None) if error is None else future.set_exception(error)
    return future


def test_a_canceled_job_does_not_pay_for_pictures_that_failed():
    requests = [SimpleNamespace(steps_run=steps) for steps in (20, 20, 5)]
    futures = [ended(), ended(BrokenPicture("nan")), ended(Canceled(5))]
    assert _steps_to_pay(Task(None, requests, futures)) == [20, 0, 5]


@pytest.mark.parametrize("error", [BrokenPicture("nan"), AdapterUnavailable("no such file")], ids=repr)
def test_what_would_fail_again_is_not_tried_again(worker, alice, order, error):
    job = submission.submit(alice.account.id, order()).job
    worker._fail(lifecycle.claim(job.id, "w1"), error)
    assert Job.objects.get(id=job.id).status == "failed"
    assert alice.balance == (1_000_000, 0)


@pytest.mark.parametrize(("errors", "attempt"), [([None, "stopped"], 0), (["fault", "stopped"], 1)])
def test_only_a_job_whose_own_picture_broke_the_engine_loses_its_attempt(worker, alice, order, errors, attempt):
    raised = {None: None, "stopped": EngineStopped("the engine stopped"), "fault": EngineFault("a CUDA error")}
    job = submission.submit(alice.account.id, order(n=2)).job
    worker._conclude(Task(lifecycle.claim(job.id, "w1"), [], [ended(raised[each]) for each in errors]), 1.0)
    job.refresh_from_db()
    assert (job.status, job.attempt) == ("queued", attempt)


def test_a_picture_that_no_storage_takes_is_tried_again(worker, alice, order, monkeypatch):
    def refuse(*_):
        raise RuntimeError("SlowDown: reduce your request rate")

    monkeypatch.setattr("marketplace.jobs.worker._result", refuse)
    job = submission.submit(alice.account.id, order()).job
    worker._deliver(Task(lifecycle.claim(job.id, "w1"), [], [ended()]), 1.0)
    job.refresh_from_db()
    assert (job.status, job.attempt) == ("queued", 1)


def test_a_retry_by_the_same_worker_keeps_its_heartbeat(worker, alice, order, monkeypatch):
    job = submission.submit(alice.account.id, order()).job
    successor = Task(None, [])

    def fail_while_another_thread_takes_the_retry(task):
        lifecycle.fail(task.job, "engine_failed", "no", retry=True)
        worker.tasks[job.id] = successor

    monkeypatch.setattr(worker, "_run", fail_while_another_thread_takes_the_retry)
    worker.fire(job.id)
    assert worker.tasks == {job.id: successor}
