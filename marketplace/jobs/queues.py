"""The order in which a worker looks into the queues: by weight, so that no service class starves.

A queue is skipped if its jobs already fill their share of the worker's slots. So long jobs of a lower class leave slots
free for a higher class, whose jobs always reach the engine and go first at its next step.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import lcm

WEIGHTS = {"interactive": 6, "standard": 3, "batch": 1}
# of a worker's slots, the share that the jobs of these queues may take together
SHARES = {("batch",): 0.5, ("batch", "standard"): 0.75}
STRIDES = {queue: lcm(*WEIGHTS.values()) // weight for queue, weight in WEIGHTS.items()}


class Slots:
    """The messages that this worker process is working on; `count` is how many it can take, 0 for any number."""

    def __init__(self) -> None:
        self.count = 0
        self._holding: dict[str, str] = {}

    def take(self, message: str, queue: str) -> None:
        self._holding[message] = queue

    def let_go(self, message: str) -> None:
        self._holding.pop(message, None)

    def free_for(self, queue: str) -> bool:
        held = list(self._holding.values())
        return not self.count or all(
            sum(map(held.count, together)) < max(1, int(share * self.count))
            for together, share in SHARES.items()
            if queue in together
        )


SLOTS = Slots()


class StrideOrder:
    """Stride scheduling (Waldspurger and Weihl 1995), as kombu's queue order.

    kombu asks for an order before each blocking pop, and says afterwards which queue gave a message. Each queue has a
    pass, which grows by its stride with every message; the queue with the lowest pass comes first. Queues in front of
    the one that gave a message were empty: their passes move up to its pass, so that no queue saves up credit.
    """

    def __init__(self, queues: Iterable[str] | None = None, slots: Slots = SLOTS) -> None:
        self._slots = slots
        self.update(queues or ())

    def update(self, queues: Iterable[str]) -> None:
        self.passes = dict.fromkeys(queues, 0)

    def consume(self, n: int) -> list[str]:
        """Return the first `n` queues to look into."""
        ordered = sorted(self.passes, key=lambda queue: (self.passes[queue], stride(queue)))[:n]
        return [queue for queue in ordered if self._slots.free_for(queue)]

    def rotate(self, last_used: str) -> str:
        """Account for a message taken from `last_used`."""
        reached = self.passes[last_used]
        self.passes = {queue: max(reached, passed) for queue, passed in self.passes.items()}
        self.passes[last_used] += stride(last_used)
        return last_used


def stride(queue: str) -> int:
    return STRIDES.get(queue, 1)
