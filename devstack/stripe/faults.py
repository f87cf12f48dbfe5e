"""Faults to order, stored with the rest so that a restart does not end them.

Requests: `error` (500), `rate_limit` (429) and `drop` strike before anything is done; `slow` waits first; `error_after`
(500), `timeout_after` (silence) and `drop_after` (connection closed) strike once it is done. Webhooks: `duplicate`,
`reorder` (after the next event), `delay`, `lose`.
"""

import json
import random
import sqlite3
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase

BEFORE = ("error", "rate_limit", "drop")
DURING = ("slow",)
AFTER = ("error_after", "timeout_after", "drop_after")
WEBHOOKS = ("duplicate", "reorder", "delay", "lose")
KINDS = (*BEFORE, *DURING, *AFTER, *WEBHOOKS)
SECONDS = {"slow": 2.0, "timeout_after": 100.0, "delay": 10.0, "reorder": 10.0}


@dataclass(frozen=True)
class Fault:
    """A fault. `match` is a pattern such as "POST /v1/refunds*" or, for webhooks, "checkout.session.*".

    It strikes `count` times, each with `probability`; it lasts `seconds`, where 0 means the kind's usual time.
    """

    kind: str
    match: str = "*"
    count: int = 1
    probability: float = 1.0
    seconds: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(KINDS)}")
        if not (self.count >= 1 and 0 < self.probability <= 1 and 0 <= self.seconds <= 86_400):
            raise ValueError("count must be at least 1, probability above 0 and at most 1, seconds from 0 to 86400")

    @property
    def duration(self) -> float:
        """Return how many seconds the fault lasts."""
        return self.seconds or SECONDS.get(self.kind, 0.0)


def add(connection: sqlite3.Connection, fault: Fault) -> int:
    """Add a fault, active from now on; return its id."""
    return connection.execute("INSERT INTO faults (body) VALUES (?)", (json.dumps(asdict(fault)),)).lastrowid or 0


def all_of(connection: sqlite3.Connection) -> dict[int, Fault]:
    """Return the faults that are still active, by id."""
    return {
        row["id"]: Fault(**json.loads(row["body"])) for row in connection.execute("SELECT * FROM faults ORDER BY id")
    }


def take(connection: sqlite3.Connection, kinds: Sequence[str], subject: str) -> Fault | None:
    """Return the first fault of these kinds that strikes `subject`, and count the strike."""
    for number, fault in all_of(connection).items():
        if fault.kind in kinds and fnmatchcase(subject, fault.match) and random.random() < fault.probability:
            if fault.count == 1:
                connection.execute("DELETE FROM faults WHERE id = ?", (number,))
            else:
                body = json.dumps(asdict(fault) | {"count": fault.count - 1})
                connection.execute("UPDATE faults SET body = ? WHERE id = ?", (body, number))
            return fault
    return None
