"""What all clients of a run were told: who they are, and what they remember for the accountant."""

import threading
from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple
from uuid import UUID


class Customer(NamedTuple):
    """An account with two of its API keys, one of which has a daily cap."""

    id: UUID
    key: str
    capped_key: str


@dataclass
class Memory:
    """What all clients of a run were told, for the accountant; it only ever grows."""

    jobs: dict[str, str] = field(default_factory=dict)
    """By idempotency key: the id of the job that it bought."""
    asked: set[str] = field(default_factory=set)
    refused: set[str] = field(default_factory=set)
    """Keys for which the last answer was that nothing was bought."""
    trainings: dict[str, str] = field(default_factory=dict)
    """By idempotency key: the id of the training that it bought."""
    payouts: set[str] = field(default_factory=set)
    """Ids of those that were ordered."""
    published: dict[str, tuple[str, str]] = field(default_factory=dict)
    """By adapter that was published at some time: its maker's handle and its slug."""
    top_ups: dict[str, str] = field(default_factory=dict)
    caps: Counter[tuple[UUID, str]] = field(default_factory=Counter)
    """By account and currency: the most that automatic top-ups were ever allowed to take."""
    operations: Counter[tuple[str, str]] = field(default_factory=Counter)
    """By operation and what came of it."""
    violations: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, operation: str, outcome: str) -> None:
        with self.lock:
            self.operations[operation, outcome] += 1

    def complain(self, what: str) -> None:
        with self.lock:
            self.violations.append(what)

    def allow(self, account: UUID, currency: str, cap: int) -> None:
        with self.lock:
            self.caps[account, currency] = max(cap, self.caps[account, currency])
