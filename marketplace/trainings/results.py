"""What comes of a training: a version of its adapter, and the end of the training with it."""

from __future__ import annotations

import hashlib
import json
import tempfile
from pathlib import Path
from uuid import UUID

from django.core.files.base import File
from django.core.files.storage import storages
from django.db import transaction

from lora import paths, versions
from lora.errors import UnknownAdapter
from lora.models import Version
from lora.versions import Facts
from marketplace.trainings import lifecycle, storage
from marketplace.trainings.errors import NoSuchStep, NotFound
from marketplace.trainings.models import Training

# An adapter that was paid for is kept, however many there are.
UNLIMITED = 2**31 - 1


def deliver(training: Training, path: Path) -> None:
    """End a training with the adapter in a file. Raises LeaseLost."""
    version = _version(training, path)
    with transaction.atomic():
        if version is None:  # deleted meanwhile, as if it had been canceled at its last step
            lifecycle.stop(training, training.steps, None)
        else:
            lifecycle.complete(training, version)


def deliver_canceled(training: Training) -> None:
    """End a training that was canceled while it ran, with its best adapter so far. Raises LeaseLost."""
    training.refresh_from_db(fields=["step", "evaluations"])
    version, best = None, _best(training)
    if best:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "adapter.safetensors")
            storage.fetch(best, path)
            version = _version(training, path)
    lifecycle.stop(training, training.step, version)


def keep(account_id: UUID, training_id: UUID, step: int) -> Version:
    """Make the adapter of another step of a training a version, too, and return it; once for each.

    Raises NotFound, NoSuchStep, or UnknownAdapter if the adapter was deleted.
    """
    training = Training.objects.filter(id=training_id, account_id=account_id).select_related("adapter").first()
    if training is None:
        raise NotFound
    found = [each["adapter"] for each in training.evaluations if each["step"] == step and each["adapter"]]
    if not found:
        raise NoSuchStep
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "adapter.safetensors")
        storage.fetch(found[0], path)
        version = _version(training, path)
    if version is None:
        raise UnknownAdapter
    return version


def _best(training: Training) -> str:
    kept = [each for each in training.evaluations if each["adapter"]]
    return str(max(kept, key=lambda each: each["score"])["adapter"]) if kept else ""


def _version(training: Training, path: Path) -> Version | None:
    """Return the version of the adapter in a file, the one there is already if so; None if the adapter was deleted."""
    facts = _facts(training, path)
    adapter = training.adapter
    earlier = Version.objects.filter(adapter=adapter, sha256=facts.sha256, deleted_at=None).first()
    if earlier:
        return earlier
    try:
        version = versions.begin(adapter, Version.Origin.TRAINED, facts.size, most=UNLIMITED, mebibytes=UNLIMITED)
    except UnknownAdapter:
        return None
    with path.open("rb") as opened:
        name = paths.ready(adapter.id, version.number, facts.sha256)
        storages["adapters"].save(name, File(opened))
    versions.accept(version, facts)
    version.refresh_from_db()
    return version


def _facts(training: Training, path: Path) -> Facts:
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    ranks = [tensor["shape"][0] for name, tensor in header.items() if name.endswith("lora_A.weight")]
    samples = [{"step": each["step"], "path": each["samples"]} for each in training.evaluations if each["samples"]]
    return Facts(
        sha256=hashlib.sha256(content).hexdigest(),
        size=len(content),
        rank=max(ranks),
        layers=len(ranks),
        samples=samples[-1:],
        surcharge=training.tier.surcharge,
    )
