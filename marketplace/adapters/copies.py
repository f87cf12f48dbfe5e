"""Copies of adapters' files on a worker's machine: fetched when first wanted, verified, evicted by last use.

A folder may serve several processes. Beside each file lies a lock, which whoever uses the file holds shared, and which
whoever evicts it must have alone; its time says when the file was last used, since the engine would take a file whose
own time changed for another one.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from marketplace.adapters import metrics

SUFFIX = ".safetensors"
CHUNK = 1024**2

logger = logging.getLogger(__name__)

Fetch = Callable[[str, Path], None]


class Unavailable(Exception):
    """A file cannot be had: it is lost, is not what it was, or the storage fails."""


class Copies:
    """The copies in one folder, at most `budget` bytes of those that are not in use. Thread-safe."""

    def __init__(self, folder: Path, budget: int, fetch: Fetch) -> None:
        """Fetch with `fetch(path in the storage, file here)`."""
        self.folder = folder
        self.budget = budget
        self._fetch = fetch
        self._verified: dict[str, tuple[int, int, int]] = {}
        self._locks: dict[str, threading.Lock] = {}
        self._lock = threading.Lock()
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    @contextmanager
    def borrowed(self, wanted: Sequence[tuple[str, str]]) -> Iterator[list[str]]:
        """Give the local paths of files, each known by its path in the storage and its SHA-256, while they are used.

        Raises Unavailable.
        """
        with ExitStack() as stack:
            try:
                found = [str(stack.enter_context(self._borrowed(path, sha256))) for path, sha256 in wanted]
            except OSError as error:
                raise Unavailable(f"there is no place for adapters here: {error}") from error
            yield found

    @contextmanager
    def _borrowed(self, path: str, sha256: str) -> Iterator[Path]:
        local = self.folder / f"{sha256}{SUFFIX}"
        with _held(self._lock_of(sha256)):
            with self._one(sha256):
                was_there = local.exists()
                fetched = not self._is_sound(local, sha256)
                if fetched:
                    self._fetch_counted(path, sha256, local, "damaged" if was_there else "miss")
                else:
                    metrics.wanted("hit")
            if fetched:
                self._evict()
            yield local

    def _lock_of(self, sha256: str) -> Path:
        return self.folder / f"{sha256}.lock"

    @contextmanager
    def _one(self, sha256: str) -> Iterator[None]:
        """Let one thread at a time look for a file, so that it is fetched once."""
        with self._lock:
            mine = self._locks.setdefault(sha256, threading.Lock())
        with mine:
            yield

    def _is_sound(self, local: Path, sha256: str) -> bool:
        """Return whether the file is there and is what it should be; it is read only if it may have changed."""
        try:
            found = local.stat()
            state = (found.st_ino, found.st_size, found.st_mtime_ns)
            if self._verified.get(sha256) != state:
                if _sha256(local) != sha256:
                    logger.warning("the copy %s is damaged and is fetched again", local.name)
                    return False
                self._verified[sha256] = state
        except FileNotFoundError:
            return False
        return True

    def _fetch_counted(self, path: str, sha256: str, local: Path, outcome: str) -> None:
        try:
            self._bring(path, sha256, local)
        except Unavailable:
            metrics.wanted("unavailable")
            raise
        metrics.wanted(outcome, local.stat().st_size)

    def _bring(self, path: str, sha256: str, local: Path) -> None:
        """Fetch a file, verify it, and put it in its place at once."""
        handle, name = tempfile.mkstemp(prefix="fetched-", dir=self.folder)
        os.close(handle)
        fetched = Path(name)
        try:
            self._fetch(path, fetched)
            if _sha256(fetched) != sha256:
                raise Unavailable(f"{path} is not what was stored")
            fetched.replace(local)
        except Unavailable:
            raise
        except Exception as error:
            raise Unavailable(f"{path} cannot be fetched: {error!r}") from error
        finally:
            fetched.unlink(missing_ok=True)
        self._is_sound(local, sha256)

    def _evict(self) -> None:
        """Remove what was last used longest ago, until there is no more than the budget, or the rest is in use."""
        found = []
        for local in self.folder.glob(f"*{SUFFIX}"):
            with suppress(FileNotFoundError):
                size = local.stat().st_size
                found.append((self._lock_of(local.name.removesuffix(SUFFIX)).stat().st_mtime_ns, size, local))
        kept = sum(size for _, size, _ in found)
        for _, size, local in sorted(found):
            if kept <= self.budget:
                break
            if self._removed(local):
                kept -= size
                metrics.evicted(size)
        metrics.HERE.set(kept)

    def _removed(self, local: Path) -> bool:
        lock = self._lock_of(local.name.removesuffix(SUFFIX))
        try:
            with lock.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                local.unlink(missing_ok=True)
                lock.unlink(missing_ok=True)
        except OSError:  # somebody uses it, or has removed it
            return False
        return True


@contextmanager
def _held(lock: Path) -> Iterator[None]:
    """Hold a file's lock, shared, and note that it is used now."""
    while True:
        with lock.open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_SH)
            if not _is_at(file.fileno(), lock):
                continue  # whoever evicted the file removed its lock meanwhile
            os.utime(file.fileno())
            yield
            return


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return path.stat().st_ino == os.fstat(descriptor).st_ino
    except FileNotFoundError:
        return False


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
