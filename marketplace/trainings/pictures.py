"""The customer's pictures that trainings need: kept until a training ends, and deleted then unless they are to stay."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

from django.db.models.functions import Now

from marketplace.audit import trail
from marketplace.files import uploads
from marketplace.files.models import File
from marketplace.jobs import inputs
from marketplace.jobs.models import FINAL
from marketplace.trainings import storage
from marketplace.trainings.models import Training

logger = logging.getLogger(__name__)


def in_use(account_id: UUID | None = None) -> set[UUID]:
    """Return the files that trainings which have not ended need, of one account or of all."""
    unfinished = Training.objects.exclude(status__in=FINAL)
    if account_id:
        unfinished = unfinished.filter(account_id=account_id)
    return {file for order in unfinished.values_list("order", flat=True) for file in _files(order)}


def write(training: Training, folder: Path) -> None:
    """Write the pictures and their captions into a folder, as the trainer reads them. Raises FileNotFoundError."""
    for number, picture in enumerate(training.order["pictures"]):
        name = f"{number:04d}"
        _write(folder / f"{name}.{_suffix(picture['file'])}", picture["file"])
        (folder / f"{name}.txt").write_text("\n".join(picture["captions"]), encoding="utf-8")
        if picture["before"]:
            _write(folder / f"{name}.before.{_suffix(picture['before'])}", picture["before"])


def clear() -> int:
    """Delete what trainings that have ended need no more, and return of how many; one that fails holds up no other."""
    cleared = 0
    for training in Training.objects.filter(finished_at__isnull=False, cleared_at=None).order_by("id"):
        try:
            _clear(training)
            cleared += 1
        except Exception:
            logger.exception("training %s is not cleared yet", training.id)
    return cleared


def forget(training: Training) -> None:
    """Remove all that a training which has ended says of its pictures, and all that is stored of it."""
    _clear(training)
    storage.keep_only(training, set())
    Training.objects.filter(id=training.id).update(
        order={}, order_digest=bytes(32), evaluations=[], checkpoint="", error_message=""
    )


def _clear(training: Training) -> None:
    """Delete a training's checkpoints, its captions, and its pictures unless they are to stay or are needed."""
    kept = {each[kind] for each in training.evaluations for kind in ("samples", "adapter") if each[kind]}
    storage.keep_only(training, kept)
    files = set() if training.keep_pictures else set(_files(training.order))
    needed = in_use(training.account_id) | inputs.in_use(training.account_id)
    deleted = files - needed
    for file in File.objects.filter(account_id=training.account_id, id__in=files):
        uploads.delete(file, needed)
    nameless = [{"file": "", "before": ""} for _ in training.order.get("pictures", ())]
    with trail.acting("trainings"):
        Training.objects.filter(id=training.id).update(
            cleared_at=Now(), order=training.order and {**training.order, "pictures": nameless}
        )
        if deleted:
            trail.record("trainings", "training pictures deleted", f"training {training.id}", {"files": len(deleted)})


def _files(order: dict[str, object]) -> Iterator[UUID]:
    pictures: list[dict[str, str]] = order.get("pictures") or []  # type: ignore[assignment]
    return (UUID(each[kind]) for each in pictures for kind in ("file", "before") if each[kind])


def _suffix(file: str) -> str:
    found = File.objects.filter(id=file).values_list("media_type", flat=True).first()
    if found is None:
        raise FileNotFoundError(file)
    return {"image/jpeg": "jpg"}.get(found, found.rpartition("/")[2])


def _write(path: Path, file: str) -> None:
    path.write_bytes(uploads.read(UUID(file)))
