"""Trainings as a trainer runs them: a real model in a process of its own, killed, stopped and canceled on the way."""

import os
import random
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
from django.conf import settings
from django.core.files.storage import storages
from django.db import connection

from billing.tokens import wallets
from devstack import processes
from inference.house_model.architecture import LAYERS as BLOCKS
from inference.models import catalog
from inference.training import hyperparameters
from lora import tiers
from lora.models import Version
from lora.training_prices import LAYERS
from lora.versions import Facts
from marketplace.adapters import uploads
from marketplace.audit.models import Record
from marketplace.files.models import File
from marketplace.trainings import lifecycle, pictures, results, storage
from marketplace.trainings.errors import NoSuchStep, NotEnded, NotFound
from marketplace.trainings.models import Training
from marketplace.trainings.trainer import Trainer
from tests.marketplace.trainings import making

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.usefixtures("ledger_is_right"),
    pytest.mark.timeout(600),
]


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    monkeypatch.setattr("marketplace.trainings.trainer.RETRY_AFTER", None)


class Running:
    """A trainer in a thread, and the process of what it trains."""

    def __init__(self):
        self.leaving = threading.Event()
        self.thread = threading.Thread(target=Trainer(self.leaving.is_set).run)
        self.thread.start()

    def process(self):
        """The id of the process that trains, once there is one."""
        children = Path(f"/proc/self/task/{self.thread.native_id}/children").read_text().split()
        return int(children[0]) if children else None

    def leave(self):
        self.leaving.set()
        self.thread.join()


@pytest.fixture
def trainer(transactional_db):
    running = Running()
    yield running
    running.leave()
    connection.close()


def now():
    return Training.objects.get()


def ended():
    return now().is_final


def wait(condition, seconds=300):
    assert processes.wait_until(condition, seconds), vars(now())


@pytest.mark.deep
def test_a_training_becomes_a_version_and_its_pictures_are_deleted(alice, trainer):
    making.submit(alice, making.order(alice, steps=60, samples=("--json", "-red square")))
    wait(ended)
    found = now()
    assert (found.status, found.step, found.captured, found.held) == ("succeeded", 60, found.quoted, 0)
    version = Version.objects.get()
    assert (version.status, version.origin, version.rank, version.surcharge) == ("ready", "trained", 16, 50)
    assert found.version_id == version.id
    assert [each["step"] for each in found.evaluations] == [50, 60]
    assert all(each["loss"] > 0 and each["samples"] and each["adapter"] for each in found.evaluations)
    wait(lambda: pictures.clear() == 1, 10)
    assert not File.objects.exists()
    record = Record.objects.filter(act="training pictures deleted").get()
    assert (record.object, record.details) == (f"training {found.id}", {"files": 6})
    stored = storages["adapters"].listdir(f"trainings/{found.id}")[1]
    assert not [name for name in stored if "checkpoint" in name]


@pytest.mark.deep
def test_a_tier_with_fewer_layers_trains_only_those(alice, trainer, tmp_path):
    assert set(LAYERS) == set(hyperparameters.LAYERS), "the tier's words are the trainer's"
    terms = replace(tiers.find("sketch").terms, layers="attention")
    tiers.publish("sketch", "Only how things look at one another.", terms)
    assert alice.get("/v1/tiers").json()["data"][0]["layers"] == "attention"
    making.submit(alice, making.order(alice, tier="sketch", steps=2))
    wait(ended)
    version = Version.objects.get()
    with uploads.open_file(version) as content:
        names = list(safetensors.torch.load(content.read()))
    assert names
    assert all(".attn." in name for name in names), names
    assert version.layers == BLOCKS * len(hyperparameters.ATTENTION) - 2, "the last block's text leads nowhere"


@pytest.mark.deep
def test_killed_at_random_again_and_again_it_ends_as_if_nothing_had_happened(alice, trainer, full, settings):
    settings.TRAINING_SAVE_SECONDS = 0
    making.submit(alice, making.order(alice, steps=60))
    wait(ended)
    undisturbed = now().evaluations[-1]["loss"], Version.objects.get().sha256
    making.submit(alice, making.order(alice, steps=60))

    def second():
        return Training.objects.order_by("-id").first()

    dice, kills = random.Random(1), 5 if full else 2
    for _ in range(kills):
        wait(lambda: trainer.process() is not None or second().is_final)
        before = second().checkpoint
        wait(lambda before=before: second().checkpoint != before or second().is_final)
        time.sleep(dice.random())
        if (pid := trainer.process()) is not None:
            os.kill(pid, signal.SIGKILL)
            wait(lambda pid=pid: trainer.process() != pid)
    wait(lambda: second().is_final)
    found = second()
    assert (found.status, found.captured) == ("succeeded", found.quoted)
    assert found.attempt > 1
    assert (found.evaluations[-1]["loss"], found.version.sha256) == undisturbed
    assert wallets.balance(alice.account.id).total == 1_000_000 - 2 * found.quoted


@pytest.mark.deep
def test_a_cancel_delivers_what_there_is_and_charges_the_steps_done(alice, trainer):
    making.submit(alice, making.order(alice, steps=600))
    wait(lambda: now().evaluations)
    lifecycle.cancel(alice.account.id, now().id)
    wait(ended, 120)
    found = now()
    assert (found.status, found.captured) == ("canceled", found.quoted * found.step // 600)
    assert 50 <= found.step < 600
    assert found.version == Version.objects.get()


@pytest.mark.deep
def test_a_trainer_that_leaves_gives_back_what_it_did_and_another_goes_on(alice, trainer):
    making.submit(alice, making.order(alice, steps=80))
    wait(lambda: now().step > 5)
    trainer.leave()
    left = now()
    assert (left.status, left.failures) == ("queued", 0)
    assert left.checkpoint
    with storage.open_file(left.checkpoint) as stored:
        assert stored.read(8)
    other = Running()
    wait(ended)
    other.leave()
    assert (now().status, now().attempt, now().step) == ("succeeded", 2, 80)


@pytest.mark.deep
def test_a_lease_is_extended_while_pictures_are_fetched_however_long_that_takes(alice, trainer, monkeypatch, settings):
    settings.LEASE_SECONDS = 8
    slow = storages["files"]
    opened = slow._open

    def _open(name, mode="rb"):
        time.sleep(2)
        return opened(name, mode)

    wanted = making.order(alice)
    monkeypatch.setattr(slow, "_open", _open)
    making.submit(alice, wanted)
    wait(lambda: lifecycle.expire_leases() or trainer.process() is not None)
    assert (now().attempt, now().failures, now().status) == (1, 0, "running")
    lifecycle.cancel(alice.account.id, now().id)
    wait(ended)


def test_pictures_that_cannot_be_learnt_fail_with_the_reason_for_nothing(alice, trainer):
    wanted = making.order(alice)
    broken = File.objects.first()
    storages["files"].delete(broken.path)
    making.submit(alice, wanted)
    wait(ended, 120)
    assert (now().status, now().error_code, now().captured) == ("failed", "pictures_lost", 0)
    assert wallets.balance(alice.account.id).available == 1_000_000


@pytest.mark.deep
def test_the_adapter_of_another_step_can_be_kept_too(alice, bob, trainer):
    making.submit(alice, making.order(alice, steps=60))
    wait(ended)
    found = now()
    assert sorted(each["step"] for each in found.evaluations) == [50, 60]
    made = {results.keep(alice.account.id, found.id, step).id for step in (50, 60, 50, 60)}
    assert len(made) == 2
    assert found.version_id in made
    assert uploads.check_all(catalog.card(settings.MODEL)) == 1
    first, second = Version.objects.order_by("number")
    assert (first.status, second.status, second.origin) == ("ready", "ready", "trained")
    assert (second.surcharge, second.rank) == (50, 16)
    assert first.sha256 != second.sha256
    assert first.samples[0]["step"] != second.samples[0]["step"]
    with pytest.raises(NoSuchStep):
        results.keep(alice.account.id, found.id, 51)
    with pytest.raises(NotFound):
        results.keep(bob.account.id, found.id, 50)


def test_of_a_training_that_failed_and_cost_nothing_no_step_is_kept(alice):
    making.submit(alice)
    training = lifecycle.claim("t1")
    lifecycle.evaluated(training, {"step": 50, "loss": 0.1, "score": -0.1, "samples": "", "adapter": "somewhere"})
    lifecycle.fail(training, "diverged", "The loss is not finite.", retry=False)
    with pytest.raises(NoSuchStep):
        results.keep(alice.account.id, training.id, 50)
    assert not Version.objects.exists()


def test_a_version_is_there_only_once_its_training_has_been_charged(alice, tmp_path, monkeypatch):
    making.submit(alice)
    training = lifecycle.claim("t1")
    made = results.Made(tmp_path / "adapter", 50, Facts(sha256="ab" * 32, size=4, rank=4, layers=2))
    made.path.write_bytes(b"bits")
    monkeypatch.setattr(results, "_canonical", lambda *_: made)

    def crash(*_):
        raise SystemError

    monkeypatch.setattr(lifecycle, "_tell", crash)  # the last thing that the end of a training does
    with pytest.raises(SystemError):
        results.deliver(training, tmp_path / "adapter")
    assert not Version.objects.exists()
    assert wallets.balance(alice.account.id).held == training.quoted


def test_of_a_training_that_goes_on_nothing_is_kept_yet(alice):
    training = making.submit(alice).training
    with pytest.raises(NotEnded):
        results.keep(alice.account.id, training.id, 50)
