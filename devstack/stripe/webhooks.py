"""Delivers events in the background: signed by the SDK's own code, and retried for three days until a 2xx.

A delivery is waiting, held (until a later event was sent), delivered, lost or given up.
"""

import contextlib
import http.client
import json
import sqlite3
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from stripe import WebhookSignature

from devstack.stripe import faults, objects, store
from devstack.stripe.errors import Document
from devstack.stripe.store import Store

HOUR = 3600.0
# Stripe says "exponential back-off over three days" in live mode; the steps are an estimate.
RETRIES = (300.0, 1800.0, 2 * HOUR, 5 * HOUR, 10 * HOUR, 12 * HOUR, 12 * HOUR, 12 * HOUR, 12 * HOUR)
POLL_SECONDS = 0.05


@dataclass
class Endpoint:
    """Where events go. If there are several secrets, each signs, as while a secret is being replaced.

    `posting` holds the ids of the threads that wait for an answer.
    """

    url: str | None
    secrets: tuple[str, ...]
    retry_scale: float = 1.0
    timeout: float = 10.0
    threads: int = 4
    posting: set[int] = field(default_factory=set)


def queue(connection: sqlite3.Connection, event: Document) -> None:
    """Queue an event for delivery, subject to the faults."""
    moment = store.now(connection)
    fault = faults.take(connection, faults.WEBHOOKS, event["type"])
    kind, seconds = (fault.kind, fault.duration) if fault else ("", 0.0)
    state = {"lose": "lost", "reorder": "held"}.get(kind, "waiting")
    for _ in range(2 if kind == "duplicate" else 1):
        connection.execute(
            "INSERT INTO deliveries (event, state, due) VALUES (?, ?, ?)", (event["id"], state, moment + seconds)
        )


def listing(connection: sqlite3.Connection) -> list[Document]:
    """Return every delivery with its attempts, oldest first."""
    rows = connection.execute(
        "SELECT d.id, event, state, due, attempts, json_extract(body, '$.type') AS type"
        " FROM deliveries d JOIN objects o ON o.id = d.event ORDER BY d.id"
    )
    return [{**dict(row), "attempts": json.loads(row["attempts"])} for row in rows]


def sign(body: str, secrets: Sequence[str], moment: int) -> str:
    """Return the `Stripe-Signature` header, with one `v1` for each secret."""
    signed = [WebhookSignature.generate_signature_header(body, secret, moment) for secret in secrets]
    return ",".join([f"t={moment}", *(each.partition(",")[2] for each in signed)])


@dataclass
class Courier:
    """The deliveries of one store, made in threads until `stop`."""

    store: Store
    endpoint: Endpoint
    _stopping: threading.Event = field(default_factory=threading.Event)
    _under_way: set[int] = field(default_factory=set)

    def start(self) -> None:
        """Start the threads."""
        self._pool = ThreadPoolExecutor(self.endpoint.threads, "delivery")
        self._thread = threading.Thread(target=self._run, name="courier")
        self._thread.start()

    def stop(self) -> None:
        """Wait for the attempts under way, and end."""
        self._stopping.set()
        self.store.changed.set()
        self._thread.join()
        self._pool.shutdown()

    def _run(self) -> None:
        while not self._stopping.is_set():
            self.store.changed.wait(POLL_SECONDS)
            self.store.changed.clear()
            free = self.endpoint.threads - len(self._under_way)
            for number, event in self._due(free) if free and self.endpoint.url else ():
                self._under_way.add(number)
                self._pool.submit(self._deliver, number, event)

    def _due(self, free: int) -> list[tuple[int, Document]]:
        with self.store.transaction() as connection:
            rows = connection.execute(
                "SELECT d.id, body FROM deliveries d JOIN objects o ON o.id = d.event"
                " WHERE state IN ('waiting', 'held') AND due <= ? ORDER BY d.id LIMIT ?",
                (store.now(connection), free + len(self._under_way)),
            ).fetchall()
        waiting = [(row["id"], json.loads(row["body"])) for row in rows if row["id"] not in self._under_way]
        return waiting[:free]

    def _deliver(self, number: int, event: Document) -> None:
        try:
            started = time.time()
            status, error = self._post(json.dumps(objects.shown(event), indent=2))
            attempt = {"at": started, "seconds": round(time.time() - started, 3), "status": status, "error": error}
            with self.store.transaction() as connection:
                self._note(connection, number, event, attempt)
        finally:
            self._under_way.discard(number)

    def _note(self, connection: sqlite3.Connection, number: int, event: Document, attempt: Document) -> None:
        row = connection.execute("SELECT attempts FROM deliveries WHERE id = ?", (number,)).fetchone()
        attempts = [*json.loads(row["attempts"]), attempt]
        moment = store.now(connection)
        if attempt["status"] and 200 <= attempt["status"] < 300:
            state, due = "delivered", moment
            store.update(connection, event | {"pending_webhooks": 0})
        elif len(attempts) > len(RETRIES):
            state, due = "given up", moment
        else:
            state, due = "waiting", moment + RETRIES[len(attempts) - 1] * self.endpoint.retry_scale
        connection.execute(
            "UPDATE deliveries SET state = ?, due = ?, attempts = ? WHERE id = ?",
            (state, due, json.dumps(attempts), number),
        )
        connection.execute("UPDATE deliveries SET due = 0 WHERE state = 'held' AND id < ?", (number,))

    def _post(self, body: str) -> tuple[int | None, str | None]:
        """Post an event; return the status, or what prevented one. A redirect is not followed."""
        self.endpoint.posting.add(threading.get_ident())
        url = urlsplit(self.endpoint.url or "")
        connect = http.client.HTTPSConnection if url.scheme == "https" else http.client.HTTPConnection
        headers = {
            "Content-Type": "application/json; charset=utf-8",
            "Stripe-Signature": sign(body, self.endpoint.secrets, int(time.time())),
            "User-Agent": "Stripe/1.0 (+https://stripe.com/docs/webhooks)",
        }
        path = (url.path or "/") + (f"?{url.query}" if url.query else "")
        try:
            with contextlib.closing(connect(url.netloc, timeout=self.endpoint.timeout)) as connection:
                connection.request("POST", path, body.encode(), headers)
                return connection.getresponse().status, None
        except (OSError, http.client.HTTPException) as error:
            return None, repr(error)
        finally:
            self.endpoint.posting.discard(threading.get_ident())
