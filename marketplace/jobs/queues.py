"""In which order a worker looks into the queues: by weight, so that no service class starves.

And into which not: long jobs of a lower class take no more than a part of a worker's hands, so that a job of a higher
one always reaches the engine, which then lets it by at the next step.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import lcm

WEIGHTS = {"interactive": 6, "standard": 3, "batch": 1}
# of a worker's hands, that the jobs of these queues may take together
SHARES = {("batch",): 0.5, ("batch", "standard"): 0.75}
STRIDES = {queue: lcm(*WEIGHTS.values()) // weight for queue, weight in WEIGHTS.items()}


class Hands:
    """The messages that this worker process has in hand; `count` is how many it can have, 0 for any number."""

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


HANDS = Hands()


class StrideOrder:
    """Stride scheduling (Waldspurger and Weihl 1995), as kombu's queue order.

    kombu asks for an order before each blocking pop and says afterwards which queue gave a message. Each queue
    has a pass, which grows by its stride with every message; the lowest is looked into first. Queues in front
    of the one that gave a message were empty: they are moved up to it, so that nobody saves up by idling.
    """

    def __init__(self, queues: Iterable[str] | None = None, hands: Hands = HANDS) -> None:
        self._hands = hands
        self.update(queues or ())

    def update(self, queues: Iterable[str]) -> None:
        self.passes = dict.fromkeys(queues, 0)

    def consume(self, n: int) -> list[str]:
        """The first `n` queues to look into."""
        ordered = sorted(self.passes, key=lambda queue: (self.passes[queue], stride(queue)))[:n]
        return [queue for queue in ordered if self._hands.free_for(queue)]

    def rotate(self, last_used: str) -> str:
        """Accounts for a message taken from `last_used`."""
        reached = self.passes[last_used]
        self.passes = {queue: max(reached, passed) for queue, passed in self.passes.items()}
        self.passes[last_used] += stride(last_used)
        return last_used


def stride(queue: str) -> int:
    return STRIDES.get(queue, 1)
