"""What the double remembers, in one SQLite file: objects, stored answers, deliveries, faults and the clock.

Committed data survives a `kill -9`. One transaction runs at a time.
"""

import contextlib
import json
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from devstack.stripe.errors import Document

TABLES = """
CREATE TABLE IF NOT EXISTS objects (position INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT UNIQUE NOT NULL,
    kind TEXT NOT NULL, body TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS objects_by_kind ON objects (kind, position);
CREATE INDEX IF NOT EXISTS objects_by_intent ON objects (json_extract(body, '$.payment_intent'), kind);
CREATE INDEX IF NOT EXISTS objects_by_charge ON objects (json_extract(body, '$.charge'), kind);
CREATE INDEX IF NOT EXISTS objects_by_customer ON objects (json_extract(body, '$.customer'), kind);
CREATE INDEX IF NOT EXISTS open_sessions ON objects (json_extract(body, '$.expires_at'))
    WHERE kind = 'checkout.session' AND json_extract(body, '$.status') = 'open';
CREATE INDEX IF NOT EXISTS pending_funds ON objects (json_extract(body, '$.available_on'))
    WHERE kind = 'balance_transaction' AND json_extract(body, '$.status') = 'pending';
CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, request TEXT NOT NULL, status INTEGER NOT NULL,
    body TEXT NOT NULL, created REAL NOT NULL);
CREATE TABLE IF NOT EXISTS deliveries (id INTEGER PRIMARY KEY AUTOINCREMENT, event TEXT NOT NULL, state TEXT NOT NULL,
    due REAL NOT NULL, attempts TEXT NOT NULL DEFAULT '[]');
CREATE INDEX IF NOT EXISTS deliveries_by_due ON deliveries (state, due);
CREATE TABLE IF NOT EXISTS faults (id INTEGER PRIMARY KEY AUTOINCREMENT, body TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS clock (advanced REAL NOT NULL);
INSERT INTO clock SELECT 0 WHERE NOT EXISTS (SELECT 1 FROM clock);
"""


class Store:
    """The file, or memory only if `file` is None. Raises sqlite3.Error if the file is not the double's.

    `changed` is set whenever something was written.
    """

    def __init__(self, file: Path | None) -> None:
        self._connection = sqlite3.connect(file or ":memory:", check_same_thread=False, isolation_level=None)
        self._connection.row_factory = sqlite3.Row
        self._lock = threading.Lock()
        self.changed = threading.Event()
        self._connection.execute("PRAGMA journal_mode=WAL")
        self._connection.execute("PRAGMA synchronous=NORMAL")  # outlives this process; a power cut may lose the last
        self._connection.executescript(TABLES)

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Commit everything in the block or, if it raises, nothing."""
        with self._lock:
            before = self._connection.total_changes
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")
            if self._connection.total_changes != before:
                self.changed.set()

    def close(self) -> None:
        """Close the file once the running transaction has ended."""
        with self._lock:
            self._connection.close()


def now(connection: sqlite3.Connection) -> float:
    """Return the Unix time plus what the clock was advanced by."""
    advanced: float = connection.execute("SELECT advanced FROM clock").fetchone()[0]
    return time.time() + advanced


def insert(connection: sqlite3.Connection, document: Document) -> None:
    """Add an object under its id and kind."""
    row = (document["id"], document["object"], json.dumps(document))
    connection.execute("INSERT INTO objects (id, kind, body) VALUES (?, ?, ?)", row)


def update(connection: sqlite3.Connection, document: Document) -> None:
    """Replace an object that was inserted."""
    connection.execute("UPDATE objects SET body = ? WHERE id = ?", (json.dumps(document), document["id"]))


def read(connection: sqlite3.Connection, identifier: str) -> Document | None:
    """Return the object with this id, or None."""
    row = connection.execute("SELECT body FROM objects WHERE id = ?", (identifier,)).fetchone()
    return json.loads(row["body"]) if row else None


def select(
    connection: sqlite3.Connection,
    kind: str,
    conditions: list[tuple[str, Any]],
    *,
    limit: int = -1,
    oldest: bool = False,
) -> list[Document]:
    """Return objects of a kind, newest first; conditions are SQL with one `?` each, e.g. ("created > ?", 5)."""
    where = "".join(f" AND {sql}" for sql, _ in conditions)
    order = "ASC" if oldest else "DESC"
    rows = connection.execute(
        f"SELECT body FROM objects WHERE kind = ?{where} ORDER BY position {order} LIMIT ?",
        (kind, *(value for _, value in conditions), limit),
    )
    return [json.loads(row["body"]) for row in rows]


def field(name: str) -> str:
    """Return SQL for a field of an object, e.g. `field("created") + " > ?"`."""
    assert name.replace(".", "").replace("_", "").isalpha()
    return f"json_extract(body, '$.{name}')"
