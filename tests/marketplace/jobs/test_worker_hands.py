"""What a worker does with what comes out of its engine: who pays, and whose heartbeat it is."""

from concurrent.futures import Future
from contextlib import suppress
from types import SimpleNamespace

import pytest
from django.core.files.storage import FileSystemStorage
from PIL import Image

from inference.errors import (
    AdapterUnavailable,
    BrokenPicture,
    Canceled,
    EngineFault,
    EngineStopped,
    InvalidRequest,
)
from inference.state import Picture
from marketplace.jobs import lifecycle, storage, submission
from marketplace.jobs.errors import LeaseLost
from marketplace.jobs.models import Image as ImageRow
from marketplace.jobs.worker import Task, Worker, request_for

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

    def preview(self, request):
        return None


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


def test_a_canceled_job_delivers_what_was_finished_and_pays_for_no_picture_that_failed(worker, engine, alice, order):
    job = submission.submit(alice.account.id, order(n=4)).job
    engine.ends = [ended(Canceled(5)), ended(), ended(BrokenPicture("nan")), ended(Canceled(0))]
    engine.meanwhile = lambda: lifecycle.cancel(alice.account.id, job.id)
    worker.fire(job.id)
    job.refresh_from_db()
    assert (job.status, job.captured) == ("canceled", 1250 + 1250 * 5 // 20)
    shown = alice.get(f"/v1/jobs/{job.id}").json()
    assert [image["seed"] for image in shown["images"]] == [8]
    assert alice.get(shown["images"][0]["url"]).status_code == 200
    assert (shown["cancel_cost"], shown["cancel_requested_at"] is None) == (None, False)
    charged = alice.get(f"/v1/jobs/{job.id}/receipt").json()["images"]
    assert [(image["delivered"], image["charged"]) for image in charged] == [
        (False, "0.312"), (True, "1.25"), (False, "0"), (False, "0")
    ]  # fmt: skip
    assert [each["id"] for each in alice.get("/v1/jobs?status=canceled").json()["data"]] == [str(job.id)]


def test_a_job_whose_pictures_were_all_finished_before_the_cancel_came_through_has_succeeded(
    worker, engine, alice, order
):
    job = submission.submit(alice.account.id, order(n=2)).job
    engine.ends = [ended(), ended()]
    engine.meanwhile = lambda: lifecycle.cancel(alice.account.id, job.id)
    worker.fire(job.id)
    job.refresh_from_db()
    assert (job.status, job.captured, job.images.count()) == ("succeeded", 2500, 2)


def test_a_canceled_job_whose_pictures_all_failed_costs_nothing(worker, engine, alice, order):
    job = submission.submit(alice.account.id, order(n=2)).job
    engine.ends = [ended(BrokenPicture("nan")), ended(Canceled(0))]
    worker.fire(job.id)
    job.refresh_from_db()
    assert (job.status, job.captured, job.images.count()) == ("canceled", 0, 0)


def test_pictures_of_a_canceled_job_that_another_worker_has_by_now_are_deleted(worker, engine, alice, order):
    job = submission.submit(alice.account.id, order(n=2)).job

    def lost():
        with suppress(LeaseLost):
            lifecycle.give_back(worker.tasks[job.id].job)

    engine.ends, engine.meanwhile = [ended(), ended(Canceled(3))], lost
    worker.fire(job.id)
    job.refresh_from_db()
    assert (job.status, ImageRow.objects.count(), stored(job)) == ("queued", 0, [])


def stored(job):
    """The names of the files that the storage has for a job."""
    try:
        return storage._storage().listdir(f"{job.account_id}/{job.id}")[1]
    except FileNotFoundError:
        return []


def test_what_a_cancel_would_cost_counts_finished_pictures_whole(worker, engine, alice, order):
    """One is finished, one has all its steps, one skipped ten of its fifteen, and one failed."""
    job = submission.submit(alice.account.id, order(n=4)).job
    claimed, seen = lifecycle.claim(job.id, worker.name), object()
    task = Task(claimed, [request_for(claimed, index) for index in range(4)])
    for request, (step, skipped) in zip(task.requests, [(20, 0), (20, 0), (15, 10), (7, 0)], strict=True):
        request.state.latents, request.state.step_index, request.state.steps_skipped = seen, step, skipped
    task.requests[0].ticket.future.set_result(None)
    task.requests[3].ticket.future.set_exception(BrokenPicture("nan"))
    lifecycle.heartbeat(worker.name, {job.id: task.progress})
    shown = alice.get(f"/v1/jobs/{job.id}").json()
    assert (shown["status"], shown["cancel_cost"]) == ("running", "2.812")
    assert (shown["progress"]["step"], shown["cancel_requested_at"]) == (62, None)
    lifecycle.stop(claimed, [], {})


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (BrokenPicture("nan"), "engine_failed"),
        (AdapterUnavailable("no such file"), "adapter_unavailable"),
        (InvalidRequest("width", "no schedule at this width"), "invalid_request"),
    ],
    ids=["broken", "adapter", "request"],
)
def test_what_would_fail_again_is_not_tried_again(worker, engine, alice, order, error, code):
    job = submission.submit(alice.account.id, order()).job
    engine.ends = [ended(error)]
    worker.fire(job.id)
    shown = alice.get(f"/v1/jobs/{job.id}").json()
    assert (shown["status"], shown["error"]["code"]) == ("failed", code)
    assert ("no schedule" in shown["error"]["message"]) is (code == "invalid_request")
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
