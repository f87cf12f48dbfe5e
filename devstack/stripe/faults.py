"""What goes wrong on demand, kept with the rest so that a restart does not heal it.

Requests: `error` 500 and `rate_limit` 429 and `drop` before anything is done; `slow` sleeps first; `error_after`
500, `timeout_after` silence and `drop_after` a closed connection once it is done.
Webhooks: `duplicate`, `reorder` (after the next event), `delay`, `lose`.
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
    """`match` is a pattern such as "POST /v1/refunds*" or, for webhooks, "checkout.session.*".

    It strikes `count` times, each time with `probability`; `seconds` is how long it lasts, 0 the kind's usual time.
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
            raise ValueError("count is at least 1, probability over 0 and at most 1, seconds from 0 to 86400")

    @property
    def duration(self) -> float:
        """Seconds."""
        return self.seconds or SECONDS.get(self.kind, 0.0)


def add(connection: sqlite3.Connection, fault: Fault) -> int:
    """Let it strike from now on; its id."""
    return connection.execute("INSERT INTO faults (body) VALUES (?)", (json.dumps(asdict(fault)),)).lastrowid or 0


def all_of(connection: sqlite3.Connection) -> dict[int, Fault]:
    """Those that have not struck often enough yet."""
    return {
        row["id"]: Fault(**json.loads(row["body"])) for row in connection.execute("SELECT * FROM faults ORDER BY id")
    }


def take(connection: sqlite3.Connection, kinds: Sequence[str], subject: str) -> Fault | None:
    """The first fault of these kinds that strikes `subject`, which counts as one of its times."""
    for number, fault in all_of(connection).items():
        if fault.kind in kinds and fnmatchcase(subject, fault.match) and random.random() < fault.probability:
            if fault.count == 1:
                connection.execute("DELETE FROM faults WHERE id = ?", (number,))
            else:
                body = json.dumps(asdict(fault) | {"count": fault.count - 1})
                connection.execute("UPDATE faults SET body = ? WHERE id = ?", (body, number))
            return fault
    return None
