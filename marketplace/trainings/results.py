"""What comes of a training: a version of its adapter, and the end of the training with it."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

from django.conf import settings
from django.db import transaction

from inference.models import catalog
from lora import paths, versions
from lora.errors import UnknownAdapter
from lora.models import Version
from lora.versions import Facts
from marketplace.adapters import storage as files
from marketplace.adapters import uploads
from marketplace.jobs.models import Status
from marketplace.trainings import lifecycle, storage
from marketplace.trainings.errors import NoSuchStep, NotEnded, NotFound, Unusable
from marketplace.trainings.models import Training

# An adapter that was paid for is kept, however many there are.
UNLIMITED = 2**31 - 1


class Made(NamedTuple):
    """The canonical file of an adapter after so many steps, and what its version is to say."""

    path: Path
    step: int
    facts: Facts


def deliver(training: Training, path: Path) -> None:
    """End a training with the adapter in a file, both or neither. Raises LeaseLost, and Unusable if it is none."""
    training.refresh_from_db(fields=["evaluations"])
    best = _best(training)
    made = _canonical(training, path, best["step"] if best else training.steps)
    with transaction.atomic():
        if (version := _version(training, made)) is None:  # deleted meanwhile, as if canceled at its last step
            lifecycle.stop(training, training.steps, None)
        else:
            lifecycle.complete(training, version)


def deliver_canceled(training: Training) -> None:
    """End a training that was canceled while it ran, with its best adapter so far. Raises as `deliver` does."""
    training.refresh_from_db(fields=["step", "evaluations"])
    with tempfile.TemporaryDirectory() as folder:
        made = None
        if best := _best(training):
            path = Path(folder, "adapter.safetensors")
            storage.fetch(best["adapter"], path)
            made = _canonical(training, path, best["step"])
        with transaction.atomic():
            lifecycle.stop(training, training.step, _version(training, made) if made else None)


@transaction.atomic
def keep(account_id: UUID, training_id: UUID, step: int) -> Version:
    """Make the adapter of another step a version, too, which is ready once it is checked; return it, once for each.

    Raises NotFound, NotEnded, NoSuchStep, or UnknownAdapter if the adapter was deleted.
    """
    mine = Training.objects.select_for_update(of=("self",)).filter(id=training_id, account_id=account_id)
    training = mine.select_related("adapter", "tier").first()
    if training is None:
        raise NotFound
    if not training.is_final:
        raise NotEnded
    found = next((each for each in training.evaluations if each["step"] == step and each["adapter"]), None)
    if found is None or training.status == Status.FAILED:  # it cost nothing, so nothing of it is given
        raise NoSuchStep
    if "version" in found:
        return Version.objects.get(adapter=training.adapter, number=found["version"])
    with storage.open_file(found["adapter"]) as opened:
        size = opened.seek(0, 2)
        version = versions.begin(training.adapter, Version.Origin.TRAINED, size, most=UNLIMITED, mebibytes=UNLIMITED)
        opened.seek(0)
        uploads.receive(version, opened, facts=_terms(training, step))
    found["version"] = version.number
    training.save(update_fields=["evaluations"])
    return version


def _best(training: Training) -> dict[str, Any] | None:
    kept = [each for each in training.evaluations if each["adapter"]]
    return max(kept, key=lambda each: each["score"]) if kept else None


def _canonical(training: Training, trained: Path, step: int) -> Made:
    """Write the canonical form of the adapter of this step beside it. Raises Unusable if it cannot be used."""
    path = trained.with_name("canonical.safetensors")
    found = uploads.make_canonical(trained, path, catalog.card(settings.MODEL), {})
    if "refused" in found:
        raise Unusable(found["refused"])
    return Made(path, step, Facts(**found, **_terms(training, step)))


def _version(training: Training, made: Made) -> Version | None:
    """Write the version, in the transaction that ends the training; None if the adapter was deleted."""
    facts, trained = made.facts, Version.Origin.TRAINED
    try:
        version = versions.begin(training.adapter, trained, facts.size, most=UNLIMITED, mebibytes=UNLIMITED)
    except UnknownAdapter:
        return None
    with made.path.open("rb") as opened:
        files.put(paths.ready(training.adapter_id, version.number, facts.sha256), opened)
    versions.accept(version, facts)
    lifecycle.note_version(training, made.step, version.number)
    return version


def _terms(training: Training, step: int) -> dict[str, Any]:
    """Return what a version has from its training: the tier's surcharge, and the samples that show what it draws."""
    samples = [
        {"step": step, "path": each["samples"]}
        for each in training.evaluations
        if each["step"] == step and each["samples"]
    ]
    return {"samples": samples, "surcharge": training.tier.surcharge, "may_publish": training.tier.may_publish}
