"""A real worker and engine: what is given again, what is begun from, what it costs, and whose it never is."""

import re

import pytest
from django.conf import settings as django
from django.core.files.storage import FileSystemStorage, storages
from redis import Redis

from billing.prices import pricing
from inference.engine import Engine
from inference.latent_cache.mapping import Mapping, Point
from inference.models import catalog
from marketplace.jobs import metrics, reuse, submission
from marketplace.jobs.models import Job
from marketplace.jobs.worker import Worker
from tests.marketplace.people import customer

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("ledger_is_right")]

ONE, SAME = "a red circle on a white background", "a picture of a red circle on a white background"
STEPS = 6


class AttentiveEngine(Engine):
    """Remembers which pictures it was asked for."""

    asked = ()

    def submit(self, request):
        self.asked += (request.reference,)
        return super().submit(request)


class UnreadableStorage(FileSystemStorage):
    def _open(self, name, mode="rb"):
        raise RuntimeError("an error of the storage's own kind")


@pytest.fixture
def worker(tmp_path, settings):
    Redis.from_url(django.REDIS_URL).flushall()
    settings.LATENT_CACHE = str(tmp_path / "latents.sqlite3")
    card = catalog.card()
    latent_cache = reuse.latent_cache(card, Mapping(card.revision, (Point(0.9, 0.5),), drift=1.0))
    found = Worker(AttentiveEngine(card, latent_cache=latent_cache[0]), latent_cache)
    found.start()
    yield found
    found.drain(0)


@pytest.fixture
def buy(worker, order):
    def make(who, prompt=ONE, **changes):
        wanted = {"width": 64, "height": 64, "steps": STEPS, "cache": "on", "prompt": prompt, **changes}
        job = submission.submit(who.account.id, order(**wanted)).job
        worker.fire(job.id)
        worker.reuse[0].flush()
        return Job.objects.get(id=job.id), who.get(f"/v1/jobs/{job.id}").json()

    return make


def sums(shown):
    return [image["sha256"] for image in shown["images"]]


def counted(page, name, tier):
    found = re.search(rf'^{name}_total{{cache="{tier}"}} (\S+)$', page, re.M)
    return float(found[1]) if found else 0.0


def test_each_account_begins_from_its_own_pictures_and_is_given_its_own_again(worker, buy, alice):
    carol = customer("carol", 100)
    before = metrics.page()[0].decode()

    first, shown = buy(alice, seed=1)
    assert shown["cache"] == {"tier": "none", "similarity": None, "steps_skipped": 0}
    assert first.captured == first.quoted

    # A paraphrase begins later, and pays for skipped steps what the price list says.
    second, begun = buy(alice, SAME, seed=2)
    skipped = begun["cache"]["steps_skipped"]
    assert begun["cache"]["tier"] == "latent"
    assert 0.9 <= begun["cache"]["similarity"] <= 1
    assert 0 < skipped < STEPS
    assert begun["receipt"]["images"][0] | {"similarity": 0} == {
        "delivered": True, "steps_run": STEPS - skipped, "steps_skipped": skipped, "tier": "latent", "similarity": 0,
    }  # fmt: skip
    offer = pricing.Quote.from_json(second.quote)
    assert second.captured == pricing.charge(offer, [pricing.ImageOutcome(True, STEPS - skipped, skipped)])
    assert second.captured < second.quoted

    # A seed means that seed's picture: one that began from another's latents is given to nobody who takes none.
    job, drawn = buy(alice, SAME, seed=2, cache="exact")
    assert drawn["cache"]["tier"] == "none"
    assert sums(drawn) != sums(begun)
    assert job.captured == job.quoted

    # The same order with the same seed is the stored picture, without the engine.
    again, given = buy(alice, seed=1, cache="exact")
    assert given["cache"] == {"tier": "exact", "similarity": 1.0, "steps_skipped": STEPS}
    assert sums(given) == sums(shown)
    assert again.images.get().path != first.images.get().path
    assert again.captured < second.captured
    assert f"{first.id}/0" in worker.engine.asked
    assert f"{again.id}/0" not in worker.engine.asked

    # Another account has neither.
    for wanted in ({"prompt": SAME, "seed": 3}, {"prompt": ONE, "seed": 1, "cache": "exact"}):
        job, strange = buy(carol, **wanted)
        assert strange["cache"] == {"tier": "none", "similarity": None, "steps_skipped": 0}
        assert job.captured == job.quoted

    after = metrics.page()[0].decode()
    for tier, pictures, steps in (("none", 4, 0), ("latent", 1, skipped), ("exact", 1, STEPS)):
        assert counted(after, "kiln_pictures", tier) - counted(before, "kiln_pictures", tier) == pictures
        assert counted(after, "kiln_steps_skipped", tier) - counted(before, "kiln_steps_skipped", tier) == steps


def test_only_the_same_order_with_whole_pictures_is_given_again(buy, alice):
    _, shown = buy(alice, seed=1, n=2, cache="exact")
    assert shown["cache"]["tier"] == "none"
    assert buy(alice, seed=1, n=2, cache="exact")[1]["cache"]["tier"] == "exact"
    for changes in ({"seed": 2}, {"cache": "off"}, {"output_format": "webp"}, {"steps": 4}, {"n": 1}):
        _, other = buy(alice, **{"seed": 1, "n": 2, "cache": "exact", **changes})
        assert other["cache"]["tier"] == "none", changes
    for image in [image for job in Job.objects.all() for image in job.images.all()]:
        storages["images"].delete(image.path)
    job, drawn = buy(alice, seed=1, n=2, cache="exact")
    assert (job.status, drawn["cache"]["tier"]) == ("succeeded", "none")
    assert sums(drawn) == sums(shown)


def test_whatever_the_storage_raises_the_job_is_drawn(buy, alice, settings):
    _, shown = buy(alice, seed=1)
    unreadable = settings.STORAGES["images"] | {"BACKEND": f"{__name__}.UnreadableStorage"}
    settings.STORAGES = settings.STORAGES | {"images": unreadable}
    job, drawn = buy(alice, seed=1, cache="exact")
    assert (job.status, drawn["cache"]["tier"]) == ("succeeded", "none")
    assert sums(drawn) == sums(shown)


def test_what_the_templates_account_had_drawn_is_everybodys(buy, alice, settings):
    carol = customer("carol", 100)
    settings.TEMPLATES_ACCOUNT = str(alice.account.id)
    _, shown = buy(alice, seed=1)
    job, given = buy(carol, seed=1)
    assert given["cache"]["tier"] == "exact"
    assert sums(given) == sums(shown)
    assert str(carol.account.id) in job.images.get().path


def test_an_order_with_a_seed_takes_no_latents_unless_it_says_so(alice):
    body = {"prompt": "a red circle", "width": 64, "height": 64}
    wanted = [{}, {"seed": 1}, {"seed": 1, "cache": "on"}, {"cache": "off"}]
    jobs = [alice.post("/v1/jobs", {**body, **more}).json()["id"] for more in wanted]
    assert [Job.objects.get(id=job).order["cache"] for job in jobs] == ["on", "exact", "on", "off"]
    assert alice.post("/v1/jobs", {**body, "cache": "never"}).status_code == 422


def test_the_latents_of_a_forgotten_job_are_begun_from_by_none(worker, buy, alice):
    first, _ = buy(alice, seed=1)
    assert buy(alice, SAME, seed=2)[1]["cache"]["tier"] == "latent"
    assert alice.delete(f"/v1/jobs/{first.id}").status_code == 204
    assert worker.reuse[1].names_of(str(alice.account.id)) == set()
    assert buy(alice, SAME, seed=3)[1]["cache"]["tier"] == "none"
    assert buy(alice, seed=1)[1]["cache"]["tier"] != "exact"
