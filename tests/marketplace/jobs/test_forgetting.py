"""A forgotten job: its words, pictures, inputs and latents go, its books stay, and a crash half-way leaves nothing."""

import pytest
from django.core.files.storage import FileSystemStorage, storages
from django.db import connection
from django.db.models.functions import Now
from django.test import Client

from inference.latent_cache import stores
from marketplace.audit.models import Record
from marketplace.files.models import File
from marketplace.jobs import forgetting, reuse
from marketplace.jobs.models import Image, Job
from marketplace.maintenance.tasks import keep_forgetting
from tests.marketplace.api.asking import buy, deliver, error
from tests.marketplace.api.test_order_pictures import terms

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("ledger_is_right")]
SECRET = "a very private wish"
WORDS = {"prompt": SECRET, "negative_prompt": "no " + SECRET, "metadata": {SECRET: SECRET}}


class StorageAway(FileSystemStorage):
    def listdir(self, path):
        raise OSError("the storage is away")


@pytest.fixture(autouse=True)
def latents(settings, tmp_path):
    settings.LATENT_CACHE = str(tmp_path / "latents.sqlite3")
    return stores.open_store(settings.LATENT_CACHE)


@pytest.fixture
def job(alice, picture):
    found = buy(alice, **WORDS)["id"]
    deliver(found, picture)
    return found


def settle():
    """Time passes in which a late worker might still have written."""
    Job.objects.filter(forgotten_at__isnull=False).update(finished_at=Now() - 2 * forgetting.SETTLED)


def dump():
    """All that the database has, as text."""
    with connection.cursor() as cursor:
        found = []
        for table in connection.introspection.table_names(cursor):
            cursor.execute(f'SELECT row_to_json(t)::text FROM "{table}" t')
            found += [row for (row,) in cursor.fetchall()]
    return "\n".join(found)


def leave_latents(store, owner, job_id):
    shelf = stores.Shelf(str(owner), "shelf")
    store.put(shelf, stores.name_of(reuse.reference_of(job_id, 0)), b"its wording", {"0.5": b"latents"}, 1.0)
    return shelf


def test_what_it_was_goes_and_what_it_cost_stays(alice, job, latents):
    before, receipt = alice.get(f"/v1/jobs/{job}").json(), alice.get(f"/v1/jobs/{job}/receipt").json()
    statement, folder = alice.get("/v1/transfers").json(), f"{alice.account.id}/{job}"
    shelf = leave_latents(latents, alice.account.id, job)
    assert storages["images"].listdir(folder)[1]

    assert alice.delete(f"/v1/jobs/{job}").status_code == 204
    after = alice.get(f"/v1/jobs/{job}").json()
    gone = {"prompt": None, "negative_prompt": None, "metadata": {}, "images": [], "inputs": [], "mask": None}
    assert after == before | gone | {"forgotten_at": after["forgotten_at"]}
    assert after["forgotten_at"]
    assert alice.get(f"/v1/jobs/{job}/receipt").json() == receipt
    assert alice.get("/v1/transfers").json() == statement
    assert alice.get("/v1/jobs").json()["data"] == [after | {"queue_position": None}]
    assert Client().get(before["images"][0]["url"]).status_code == 404
    assert storages["images"].listdir(folder)[1] == []
    assert latents.names(shelf) == set()
    assert SECRET not in dump()


def test_again_is_nothing_new_and_keeps_the_time(alice, job):
    for _ in range(2):
        assert alice.delete(f"/v1/jobs/{job}").status_code == 204
    first = Job.objects.get(id=job).forgotten_at
    settle()
    keep_forgetting()
    assert alice.delete(f"/v1/jobs/{job}").status_code == 204
    assert Job.objects.get(id=job).forgotten_at == first
    (record,) = Record.objects.filter(act="job.forgotten")
    assert (record.actor, record.object) == (f"account {alice.account.id}", f"job {job}")


def test_only_what_has_ended_and_only_ones_own(alice, bob, job):
    queued = buy(alice)["id"]
    assert error(alice.delete(f"/v1/jobs/{queued}"), 409)["code"] == "not_ended"
    assert alice.get(f"/v1/jobs/{queued}").json()["prompt"] == "a red circle"
    assert error(bob.delete(f"/v1/jobs/{job}"), 404)
    assert Image.objects.filter(job=job).exists()
    alice.post(f"/v1/jobs/{queued}/cancel")
    assert alice.delete(f"/v1/jobs/{queued}").status_code == 204
    assert alice.get(f"/v1/jobs/{queued}").json()["status"] == "canceled"


def test_the_pictures_that_came_with_it_go_and_an_uploaded_file_stays(alice, picture):
    job = alice.post("/v1/jobs", terms("edit")).json()["id"]
    deliver(job, picture)
    (given,) = File.objects.all()
    assert alice.delete(f"/v1/jobs/{job}").status_code == 204
    assert not File.objects.exists()
    assert not storages["files"].exists(given.path)
    settle()
    keep_forgetting()
    stored = Job.objects.get(id=job)
    assert (stored.to_erase, stored.order.keys() & {"images", "mask"}) == (False, set())


def test_it_is_never_given_again_and_its_key_buys_nothing_more(alice, picture):
    key = {"Idempotency_Key": "once"}
    job = alice.post("/v1/jobs", {"prompt": SECRET, "width": 256, "height": 256, "steps": 20, "seed": 7}, **key).json()
    deliver(job["id"], picture)
    Job.objects.update(picture_key=bytes(32))
    alice.delete(f"/v1/jobs/{job['id']}")
    assert Job.objects.get(id=job["id"]).picture_key is None
    held = alice.balance
    again = alice.post("/v1/jobs", {"prompt": SECRET, "width": 256, "height": 256, "steps": 20, "seed": 7}, **key)
    assert (again.status_code, again.json()["id"], alice.balance) == (202, job["id"], held)


def test_a_storage_that_is_away_hides_it_at_once_and_is_emptied_later(alice, job, settings):
    settings.STORAGES = settings.STORAGES | {
        "images": {
            "BACKEND": f"{__name__}.StorageAway",
            "OPTIONS": {"location": storages["images"].location},
        }
    }
    assert alice.delete(f"/v1/jobs/{job}").status_code == 204
    assert alice.get(f"/v1/jobs/{job}").json()["images"] == []
    keep_forgetting()
    assert Job.objects.get(id=job).to_erase
    settings.STORAGES = settings.STORAGES | {
        "images": {
            "BACKEND": "django.core.files.storage.FileSystemStorage",
            "OPTIONS": {"location": storages["images"].location},
        }
    }
    settle()
    keep_forgetting()
    assert not Job.objects.get(id=job).to_erase
    assert storages["images"].listdir(f"{alice.account.id}/{job}")[1] == []


def test_what_a_late_worker_wrote_is_removed_too(alice, job, latents):
    alice.delete(f"/v1/jobs/{job}")
    shelf = leave_latents(latents, alice.account.id, job)
    keep_forgetting()
    assert Job.objects.get(id=job).to_erase  # not settled
    settle()
    keep_forgetting()
    assert latents.names(shelf) == set()
    assert not Job.objects.get(id=job).to_erase


def test_of_latents_those_of_other_jobs_and_accounts_stay(alice, bob, job, latents):
    mine = leave_latents(latents, alice.account.id, job)
    leave_latents(latents, alice.account.id, "another")
    theirs = leave_latents(latents, bob.account.id, "his")
    latents.put(mine, "0" * 32, b"from before names told", {"0.5": b"latents"}, 1.0)
    alice.delete(f"/v1/jobs/{job}")
    assert latents.names(mine) == {stores.name_of("another/0")}
    assert len(latents.names(theirs)) == 1


def test_one_that_cannot_be_erased_holds_up_no_other(alice, picture, monkeypatch):
    jobs = []
    for _ in range(2):
        jobs.append(buy(alice)["id"])
        deliver(jobs[-1], picture)
        alice.delete(f"/v1/jobs/{jobs[-1]}")
    settle()
    real = forgetting.storage.keep_only

    def fail(job, paths):
        if str(job.id) == jobs[0]:
            raise OSError("broken")
        real(job, paths)

    monkeypatch.setattr(forgetting.storage, "keep_only", fail)
    keep_forgetting()
    assert [str(each.id) for each in Job.objects.filter(to_erase=True)] == jobs[:1]
