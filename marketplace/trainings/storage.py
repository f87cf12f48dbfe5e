"""What trainings keep in the storage of adapters: checkpoints, samples and adapters, under the training's id.

Each attempt writes under its own names, so that a trainer that lost its lease overwrites nothing of its successor's.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import IO

from django.core.files.base import File
from django.core.files.storage import Storage, storages

from marketplace.trainings.models import Training


def put(training: Training, name: str, source: Path) -> str:
    """Store a file of this attempt and return its path."""
    with source.open("rb") as opened:
        return _storage().save(f"{_folder(training)}/{training.attempt}-{name}", File(opened))


def fetch(path: str, target: Path) -> None:
    """Copy a stored file to this machine. Raises FileNotFoundError if it was removed, and what the storage raises."""
    fresh = target.with_name(f"{target.name}.new")
    with _storage().open(path) as stored, fresh.open("wb") as opened:
        shutil.copyfileobj(stored, opened)
    fresh.replace(target)


def open_file(path: str) -> IO[bytes]:
    return _storage().open(path)


def delete(path: str) -> None:
    if path:
        _storage().delete(path)


def keep_only(training: Training, paths: set[str]) -> None:
    """Delete all that is stored of a training but these."""
    try:
        _, names = _storage().listdir(_folder(training))
    except FileNotFoundError:
        return
    for name in names:
        if (path := f"{_folder(training)}/{name}") not in paths:
            _storage().delete(path)


def _folder(training: Training) -> str:
    return f"trainings/{training.id}"


def _storage() -> Storage:
    return storages["adapters"]
