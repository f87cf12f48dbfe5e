"""What a worker does with what comes out of its engine: who pays, and whose heartbeat it is."""

from concurrent.futures import Future
from types import SimpleNamespace

import pytest
from django.core.files.storage import FileSystemStorage
from PIL import Image

from inference.errors import AdapterUnavailable, BrokenPicture, Canceled, EngineFault, EngineStopped
from inference.state import Picture
from marketplace.jobs import lifecycle, submission
from marketplace.jobs.models import Job
from marketplace.jobs.worker import Task, Worker, _steps_to_pay

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("ledger_is_right")]


class ScriptedEngine:
    """Warm, and each picture asked of it ends as the next of `ends` says; `meanwhile` happens while it draws."""

    warm = True
    card = SimpleNamespace(revision="r1")

    def __init__(self):
        self.ends = []
        self.meanwhile = lambda: None

    def submit(self, request):
        self.meanwhile()
        return self.ends.pop(0)


class FullStorage(FileSystemStorage):
    def _save(self, name, content):
        raise RuntimeError("SlowDown: reduce your request rate")


@pytest.fixture
def engine():
    return ScriptedEngine()


@pytest.fixture
def worker(engine):
    return Worker(engine)


def ended(error=None):
    future = Future()
    picture = Picture(Image.new("RGB", (256, 256)), steps_run=20, steps_skipped=0, seconds=1.0, seconds_waited=0.0)
    future.set_result(picture) if error is None else future.set_exception(error)
    return future


def test_a_canceled_job_does_not_pay_for_pictures_that_failed():
    requests = [SimpleNamespace(steps_run=steps) for steps in (20, 20, 5)]
    futures = [ended(), ended(BrokenPicture("nan")), ended(Canceled(5))]
    assert _steps_to_pay(Task(None, requests, futures)) == [20, 0, 5]


@pytest.mark.parametrize("error", [BrokenPicture("nan"), AdapterUnavailable("no such file")], ids=repr)
def test_what_would_fail_again_is_not_tried_again(worker, engine, alice, order, error):
    job = submission.submit(alice.account.id, order()).job
    engine.ends = [ended(error)]
    worker.fire(job.id)
    assert Job.objects.get(id=job.id).status == "failed"
    assert alice.balance == (1_000_000, 0)


@pytest.mark.parametrize(("errors", "attempt"), [([None, "stopped"], 0), (["fault", "stopped"], 1)])
def test_only_a_job_whose_own_picture_broke_the_engine_loses_its_attempt(worker, engine, alice, order, errors, attempt):
    raised = {None: None, "stopped": EngineStopped("the engine stopped"), "fault": EngineFault("a CUDA error")}
    job = submission.submit(alice.account.id, order(n=2)).job
    engine.ends = [ended(raised[each]) for each in errors]
    worker.fire(job.id)
    job.refresh_from_db()
    assert (job.status, job.attempt) == ("queued", attempt)


def test_a_picture_that_no_storage_takes_is_tried_again(worker, engine, alice, order, settings):
    settings.STORAGES = settings.STORAGES | {"images": {"BACKEND": f"{__name__}.FullStorage"}}
    job = submission.submit(alice.account.id, order()).job
    engine.ends = [ended()]
    worker.fire(job.id)
    job.refresh_from_db()
    assert (job.status, job.attempt) == ("queued", 1)


def test_a_retry_by_the_same_worker_keeps_its_heartbeat(worker, engine, alice, order):
    job = submission.submit(alice.account.id, order()).job
    successor = Task(None, [])

    def another_thread_takes_the_retry():
        lifecycle.fail(worker.tasks[job.id].job, "engine_failed", "no", retry=True)
        worker.tasks[job.id] = successor

    engine.ends, engine.meanwhile = [ended()], another_thread_takes_the_retry
    worker.fire(job.id)
    assert worker.tasks == {job.id: successor}
