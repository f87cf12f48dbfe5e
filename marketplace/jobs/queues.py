"""In which order a worker looks into the queues: by weight, so that no service class starves."""

from __future__ import annotations

from collections.abc import Iterable
from math import lcm

WEIGHTS = {"interactive": 6, "standard": 3, "batch": 1}
STRIDES = {queue: lcm(*WEIGHTS.values()) // weight for queue, weight in WEIGHTS.items()}


class StrideOrder:
    """Stride scheduling (Waldspurger and Weihl 1995), as kombu's queue order.

    kombu asks for an order before each blocking pop and says afterwards which queue gave a message. Each queue
    has a pass, which grows by its stride with every message; the lowest is looked into first. Queues in front
    of the one that gave a message were empty: they are moved up to it, so that nobody saves up by idling.
    """

    def __init__(self, queues: Iterable[str] | None = None) -> None:
        self.update(queues or ())

    def update(self, queues: Iterable[str]) -> None:
        self.passes = dict.fromkeys(queues, 0)

    def consume(self, n: int) -> list[str]:
        """The first `n` queues to look into."""
        return sorted(self.passes, key=lambda queue: (self.passes[queue], stride(queue)))[:n]

    def rotate(self, last_used: str) -> str:
        """Accounts for a message taken from `last_used`."""
        reached = self.passes[last_used]
        self.passes = {queue: max(reached, passed) for queue, passed in self.passes.items()}
        self.passes[last_used] += stride(last_used)
        return last_used


def stride(queue: str) -> int:
    return STRIDES.get(queue, 1)
