"""The storage of adapters' files: what was sent, until it is checked, and then the canonical file of each version.

Any Django storage will do (`STORAGES["adapters"]`): a folder by default, or an S3 bucket in production.
"""

from __future__ import annotations

from pathlib import Path
from typing import IO, Any

from django.core.files.base import File
from django.core.files.storage import Storage, storages

CHUNK = 1024**2


def put(path: str, content: IO[Any]) -> None:
    """Store a file under its path, in place of what is there."""
    storage = _storage()
    storage.delete(path)
    storage.save(path, File(content))


def fetch(path: str, into: Path) -> None:
    """Copy a stored file to this machine. Raises what the storage raises, FileNotFoundError if there is none."""
    with _storage().open(path) as stored, into.open("wb") as copied:
        while chunk := stored.read(CHUNK):
            copied.write(chunk)


def open_file(path: str) -> IO[bytes]:
    """Open a stored file. Raises FileNotFoundError if there is none."""
    return _storage().open(path)


def delete(path: str) -> None:
    """Delete a stored file, if there is one."""
    _storage().delete(path)


def _storage() -> Storage:
    return storages["adapters"]
