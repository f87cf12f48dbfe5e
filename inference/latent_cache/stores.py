"""Stores of entries, shared by all workers: a file on disk or Redis, behind one interface. Bytes only.

An entry belongs to an owner (an account) and to one of its shelves; the entries of a shelf are alike in everything but
prompt and seed. It has a description, which look-ups read, and latents at several levels. The entries worth least are
evicted first, within the owner's limit of bytes and within that of all. Each blob carries its SHA-256.
"""

import hashlib
import json
import sqlite3
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol
from uuid import uuid4

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

DIGEST = 32
# Letters of a name that says from which request an entry is.
NAME = 40
REDIS_SECONDS = 0.25
DISK_SECONDS = 0.25
MIB = 2**20


class StoreUnavailable(Exception):
    """The store cannot be reached or does not answer in time."""


class Shelf(NamedTuple):
    """An owner's entries that are alike in everything but prompt and seed."""

    owner: str
    key: str


class Limits(NamedTuple):
    """Limits in bytes: for one owner's entries, and for all."""

    owner: int = 64 * MIB
    total: int = 2048 * MIB


class Store(Protocol):
    """A store of entries. Every method raises StoreUnavailable; what was damaged reads as missing."""

    def names(self, shelf: Shelf) -> set[str]:
        """Return the names of a shelf's entries."""
        ...

    def descriptions(self, shelf: Shelf, names: Collection[str]) -> dict[str, bytes]:
        """Return the descriptions of these entries by name."""
        ...

    def latents(self, name: str, level: str) -> bytes | None:
        """Return an entry's latents at a level."""
        ...

    def put(self, shelf: Shelf, name: str, description: bytes, latents: Mapping[str, bytes], worth: float) -> None:
        """Add a whole entry at once, or replace the one of that name, then evict what is over the limits."""
        ...

    def credit(self, name: str, worth: float) -> None:
        """Add to an entry's worth; no-op if it is gone."""
        ...

    def discard(self, name: str) -> None:
        """Remove an entry, if it is there."""
        ...

    def names_of(self, owner: str) -> set[str]:
        """Return the names of all of an owner's entries."""
        ...

    def change_note(self, key: str, change: Callable[[bytes | None], bytes]) -> None:
        """Replace the note under a key by what `change` makes of it, in one transaction.

        `change` may be called more than once; if it raises, everything stays as it was.
        """
        ...


def open_store(place: str, limits: Limits = Limits()) -> Store:  # noqa: B008 - a tuple
    """Open the Redis at a `redis://` address, else the file at a path."""
    if place.startswith(("redis://", "rediss://", "unix://")):
        return RedisStore(place, limits)
    return DiskStore(Path(place), limits)


def name_of(reference: str) -> str:
    """Return the name of the entry that a request with this reference leaves; without one, a name at random."""
    return hashlib.sha256(reference.encode()).hexdigest()[:NAME] if reference else uuid4().hex


def forget(store: Store, owner: str, reference: str | None = None) -> None:
    """Remove the entry that a request of an owner left, or all that the owner's requests left.

    With the first one go all those whose names, at random as they once were, do not say from which request they are.
    Raises StoreUnavailable.
    """
    for name in store.names_of(owner):
        if reference is None or name == name_of(reference) or len(name) != NAME:
            store.discard(name)


def sealed(content: bytes) -> bytes:
    """Put the content's SHA-256 before it."""
    return hashlib.sha256(content).digest() + content


def unsealed(blob: bytes | None) -> bytes | None:
    """Return what was sealed; None if there is nothing, or a byte has changed."""
    if blob is None or hashlib.sha256(blob[DIGEST:]).digest() != blob[:DIGEST]:
        return None
    return blob[DIGEST:]


def _size(description: bytes, latents: Mapping[str, bytes]) -> int:
    return len(description) + sum(map(len, latents.values()))


class DiskStore:
    """One SQLite file for the processes of a machine; a file that cannot be read is replaced by a new one."""

    SCHEMA = """
        PRAGMA journal_mode = WAL;
        CREATE TABLE IF NOT EXISTS entry (
            name TEXT PRIMARY KEY, owner TEXT NOT NULL, shelf TEXT NOT NULL, description BLOB NOT NULL,
            bytes INTEGER NOT NULL, worth REAL NOT NULL
        );
        CREATE INDEX IF NOT EXISTS entry_of_shelf ON entry (owner, shelf);
        CREATE TABLE IF NOT EXISTS latents (
            name TEXT REFERENCES entry ON DELETE CASCADE, level TEXT, content BLOB NOT NULL, PRIMARY KEY (name, level)
        );
        CREATE TABLE IF NOT EXISTS note (key TEXT PRIMARY KEY, content BLOB NOT NULL);
    """
    TRIM = """
        DELETE FROM entry WHERE name IN (
            SELECT name FROM (
                SELECT name, sum(bytes) OVER (ORDER BY worth DESC, rowid DESC) AS needed FROM entry
                WHERE :owner IS NULL OR owner = :owner
            ) WHERE needed > :limit
        )
    """

    def __init__(self, path: Path, limits: Limits) -> None:
        self._path = path
        self._limits = limits
        self._ready = False

    def names(self, shelf: Shelf) -> set[str]:
        with self._open() as file:
            return {name for (name,) in file.execute("SELECT name FROM entry WHERE owner = ? AND shelf = ?", shelf)}

    def descriptions(self, shelf: Shelf, names: Collection[str]) -> dict[str, bytes]:
        with self._open() as file:
            found = [
                file.execute("SELECT name, description FROM entry WHERE name = ?", (name,)).fetchone() for name in names
            ]
        opened = {row[0]: unsealed(row[1]) for row in found if row}
        return {name: content for name, content in opened.items() if content is not None}

    def latents(self, name: str, level: str) -> bytes | None:
        with self._open() as file:
            query = "SELECT content FROM latents WHERE name = ? AND level = ?"
            row = file.execute(query, (name, level)).fetchone()
        return unsealed(row[0]) if row else None

    def put(self, shelf: Shelf, name: str, description: bytes, latents: Mapping[str, bytes], worth: float) -> None:
        size = _size(description, latents)
        with self._open() as file:
            file.execute("DELETE FROM entry WHERE name = ?", (name,))
            file.execute(
                "INSERT INTO entry VALUES (?, ?, ?, ?, ?, ?)", (name, *shelf, sealed(description), size, worth)
            )
            rows = [(name, level, sealed(content)) for level, content in latents.items()]
            file.executemany("INSERT INTO latents VALUES (?, ?, ?)", rows)
            file.execute(self.TRIM, {"owner": shelf.owner, "limit": self._limits.owner})
            file.execute(self.TRIM, {"owner": None, "limit": self._limits.total})

    def credit(self, name: str, worth: float) -> None:
        with self._open() as file:
            file.execute("UPDATE entry SET worth = worth + ? WHERE name = ?", (worth, name))

    def discard(self, name: str) -> None:
        with self._open() as file:
            file.execute("DELETE FROM entry WHERE name = ?", (name,))

    def names_of(self, owner: str) -> set[str]:
        with self._open() as file:
            return {name for (name,) in file.execute("SELECT name FROM entry WHERE owner = ?", (owner,))}

    def change_note(self, key: str, change: Callable[[bytes | None], bytes]) -> None:
        with self._open() as file:
            file.execute("BEGIN IMMEDIATE")
            row = file.execute("SELECT content FROM note WHERE key = ?", (key,)).fetchone()
            changed = change(unsealed(row[0]) if row else None)
            file.execute("INSERT OR REPLACE INTO note VALUES (?, ?)", (key, sealed(changed)))

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """Open a connection for one transaction."""
        try:
            connection = self._connect()
            try:
                with connection:
                    yield connection
            finally:
                connection.close()
        except sqlite3.OperationalError as error:
            raise StoreUnavailable(str(error)) from error
        except sqlite3.DatabaseError as error:
            if type(error) is sqlite3.DatabaseError:
                self._begin_anew()
            raise StoreUnavailable(f"{self._path}: {error}") from error

    def _connect(self) -> sqlite3.Connection:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._ready = self._ready and self._path.exists()
        connection = sqlite3.connect(self._path, timeout=DISK_SECONDS)
        try:
            if not self._ready:
                connection.executescript(self.SCHEMA)
                self._ready = True
            connection.execute("PRAGMA foreign_keys = ON")
        except sqlite3.Error:
            connection.close()
            raise
        return connection

    def _begin_anew(self) -> None:
        for suffix in ("", "-wal", "-shm"):
            Path(f"{self._path}{suffix}").unlink(missing_ok=True)


class RedisStore:
    """Keys under `kiln:latents:` in Redis; waits a quarter of a second at most."""

    PREFIX = "kiln:latents:"

    def __init__(self, url: str, limits: Limits) -> None:
        # its types allow for text, which it returns only on request
        self._redis: Any = Redis.from_url(
            url, socket_timeout=REDIS_SECONDS, socket_connect_timeout=REDIS_SECONDS, retry=Retry(NoBackoff(), 0)
        )
        self._limits = limits
        # entries by worth, of one owner and of all; and each entry's shelf and size
        self._worth, self._places = f"{self.PREFIX}worth", f"{self.PREFIX}places"

    def names(self, shelf: Shelf) -> set[str]:
        with _translated():
            return {name.decode() for name in self._redis.hkeys(self._index(shelf))}

    def descriptions(self, shelf: Shelf, names: Collection[str]) -> dict[str, bytes]:
        with _translated():
            wanted = list(names)
            blobs = self._redis.hmget(self._index(shelf), wanted) if wanted else []
        opened = {name: unsealed(blob) for name, blob in zip(wanted, blobs, strict=True)}
        return {name: content for name, content in opened.items() if content is not None}

    def latents(self, name: str, level: str) -> bytes | None:
        with _translated():
            return unsealed(self._redis.hget(f"{self.PREFIX}entry:{name}", level))

    def put(self, shelf: Shelf, name: str, description: bytes, latents: Mapping[str, bytes], worth: float) -> None:
        place = json.dumps([*shelf, _size(description, latents)])
        with _translated():
            together = self._redis.pipeline()
            together.hset(self._index(shelf), name, sealed(description))
            blobs = {level: sealed(content) for level, content in latents.items()}
            together.hset(f"{self.PREFIX}entry:{name}", mapping=blobs)
            together.hset(self._places, name, place)
            for worths in (self._worth, f"{self._worth}:{shelf.owner}"):
                together.zadd(worths, {name: worth})
            together.execute()
            self._trim(f"{self._worth}:{shelf.owner}", self._limits.owner)
            self._trim(self._worth, self._limits.total)

    def credit(self, name: str, worth: float) -> None:
        with _translated():
            if place := self._redis.hget(self._places, name):
                for worths in (self._worth, f"{self._worth}:{json.loads(place)[0]}"):
                    self._redis.zadd(worths, {name: worth}, xx=True, incr=True)

    def discard(self, name: str) -> None:
        with _translated():
            self._drop([name])

    def names_of(self, owner: str) -> set[str]:
        with _translated():
            return {name.decode() for name in self._redis.zrange(f"{self._worth}:{owner}", 0, -1)}

    def change_note(self, key: str, change: Callable[[bytes | None], bytes]) -> None:
        place = f"{self.PREFIX}note:{key}"

        def act(together: Any) -> None:
            changed = change(unsealed(together.get(place)))
            together.multi()
            together.set(place, sealed(changed))

        with _translated():
            self._redis.transaction(act, place)

    def _index(self, shelf: Shelf) -> str:
        return f"{self.PREFIX}shelf:{shelf.owner}:{shelf.key}"

    def _trim(self, worths: str, limit: int) -> None:
        names = [name.decode() for name in self._redis.zrevrange(worths, 0, -1)]
        places = self._redis.hmget(self._places, names) if names else []
        needed, beyond = 0, []
        for name, place in zip(names, places, strict=True):
            needed += json.loads(place)[2] if place else 0
            if needed > limit:
                beyond.append(name)
        self._drop(beyond)

    def _drop(self, names: Collection[str]) -> None:
        together = self._redis.pipeline()
        for name in names:
            if place := self._redis.hget(self._places, name):
                owner, key, _ = json.loads(place)
                together.hdel(self._index(Shelf(owner, key)), name)
                together.zrem(f"{self._worth}:{owner}", name)
            together.zrem(self._worth, name)
            together.hdel(self._places, name)
            together.delete(f"{self.PREFIX}entry:{name}")
        together.execute()


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except RedisError as error:
        raise StoreUnavailable(str(error)) from error
