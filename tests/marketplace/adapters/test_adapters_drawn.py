"""A real worker and engine draw with adapters: they change the picture, and caches tell them apart by their content."""

import io

import numpy as np
import pytest
from django.core.files.storage import FileSystemStorage
from django.db.models.functions import Now
from PIL import Image

from inference.engine import Engine
from inference.models import catalog
from lora import adapters, paths, versions
from marketplace.adapters import storage, uploads
from marketplace.jobs import reuse
from marketplace.jobs.models import Job
from marketplace.jobs.worker import Worker
from tests.marketplace.adapters import goods
from tests.marketplace.adapters.test_adapter_uploads import sent

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("ledger_is_right")]
ORDER = {"prompt": "a red circle on a white background", "width": 64, "height": 64, "steps": 6, "seed": 3}


class BrokenStorage(FileSystemStorage):
    def _open(self, name, mode="rb"):
        raise RuntimeError("SlowDown: reduce your request rate")


@pytest.fixture
def worker(tmp_path, settings):
    settings.LATENT_CACHE = reuse.OFF
    settings.ADAPTERS_CACHE = str(tmp_path / "copies")
    settings.RETRY_SECONDS = 0
    found = Worker(Engine(catalog.card()))
    found.start()
    yield found
    found.drain(0)


@pytest.fixture
def glaze(alice, tmp_path):
    made = goods.adapter(alice)
    goods.version(made, tmp_path)
    return made


@pytest.fixture
def draw(worker, alice):
    """Order a picture and have it drawn; returns the job and its pixels, None if there are none."""

    def make(*used, **changes):
        answer = alice.post("/v1/jobs", {**ORDER, "adapters": list(used), **changes})
        assert answer.status_code == 202, answer.content
        return finish(worker, alice, answer.json()["id"])

    return make


def finish(worker, who, job_id):
    while not Job.objects.get(id=job_id).is_final:
        Job.objects.filter(id=job_id).update(not_before=None, dispatched_at=Now())
        worker.fire(job_id)
    shown = who.get(f"/v1/jobs/{job_id}").json()
    if not shown["images"]:
        return shown, None
    answer = who.get(shown["images"][0]["url"])
    content = b"".join(answer.streaming_content) if answer.streaming else answer.content
    (pixels := Image.open(io.BytesIO(content))).load()
    return shown, np.asarray(pixels).astype(int)


def used(made, **terms):
    return {"id": str(made.id), **terms}


def test_an_adapter_changes_the_picture_by_its_scale(draw, glaze):
    _, plain = draw()
    _, none = draw(used(glaze, scale=0.0))
    _, half = draw(used(glaze, scale=0.5))
    shown, whole = draw(used(glaze))
    assert shown["cache"]["tier"] == "none"
    assert np.abs(none - plain).max() <= 1
    assert np.abs(half - plain).mean() > 2
    assert np.abs(whole - half).mean() > 2


def test_the_exact_cache_knows_adapters_by_content_and_scale(draw, glaze, alice, tmp_path):
    draw()
    first, pixels = draw(used(glaze))
    assert first["cache"]["tier"] == "none"
    again, same = draw(used(glaze))
    assert again["cache"]["tier"] == "exact"
    assert (same == pixels).all()
    assert draw(used(glaze, scale=0.9))[0]["cache"]["tier"] == "none"
    twin = goods.adapter(alice, "twin")
    goods.version(twin, tmp_path, seed=0)
    assert draw(used(twin))[0]["cache"]["tier"] == "exact"
    goods.version(glaze, tmp_path, seed=1)
    other, changed = draw(used(glaze))
    assert other["cache"]["tier"] == "none"
    assert (changed != pixels).any()
    assert draw(used(glaze, version=1))[0]["cache"]["tier"] == "exact"


def test_what_was_ordered_before_an_adapter_was_deleted_is_drawn_and_paid(worker, alice, glaze):
    job = alice.post("/v1/jobs", {**ORDER, "adapters": [used(glaze)]}).json()
    adapters.delete(glaze)
    shown, pixels = finish(worker, alice, job["id"])
    assert (shown["status"], pixels is None) == ("succeeded", False)
    assert shown["cost"]["captured"] == shown["cost"]["quoted"]


def test_a_lost_file_fails_free_of_charge_and_says_so(draw, glaze, alice):
    version = versions.pick(glaze)
    storage.delete(paths.ready(glaze.id, version.number, version.sha256))
    before = alice.balance
    shown, _ = draw(used(glaze))
    assert (shown["status"], shown["error"]["code"]) == ("failed", "adapter_unavailable")
    assert Job.objects.get().attempt == 3
    assert alice.balance == before


def test_a_storage_that_comes_back_is_only_a_later_attempt(worker, alice, glaze, settings, tmp_path):
    right = settings.STORAGES
    settings.STORAGES = right | {
        "adapters": {"BACKEND": f"{__name__}.BrokenStorage", "OPTIONS": {"location": str(tmp_path)}}
    }
    job = alice.post("/v1/jobs", {**ORDER, "adapters": [used(glaze)]}).json()
    Job.objects.filter(id=job["id"]).update(dispatched_at=Now())
    worker.fire(job["id"])
    assert Job.objects.get().status == "queued"
    settings.STORAGES = right
    shown, _ = finish(worker, alice, job["id"])
    assert (shown["status"], Job.objects.get().attempt) == ("succeeded", 2)


def test_a_file_that_was_sent_draws_as_it_was_trained(worker, draw, alice, glaze, tmp_path):
    _, right = draw(used(glaze), cache="off")
    made = sent(alice, goods.weights(tmp_path / "sent.safetensors").read_bytes(), slug="sent")
    assert uploads.check_all(worker.card) == 1
    shown, found = draw({"id": made["id"]}, cache="off")
    assert shown["adapters"] == [{"id": made["id"], "version": 1, "scale": 1.0}]
    assert np.abs(found - right).max() <= 1


def test_jobs_with_and_without_adapters_run_in_one_worker(draw, glaze, tmp_path, alice):
    other = goods.adapter(alice, "slip")
    goods.version(other, tmp_path, seed=2)
    _, both = draw(used(glaze, scale=0.5), used(other, scale=0.5))
    _, one = draw(used(glaze, scale=0.5))
    assert np.abs(both - one).mean() > 1
