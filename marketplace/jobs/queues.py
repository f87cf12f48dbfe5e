"""In which order a worker looks into the queues: by weight, so that no service class starves."""

from __future__ import annotations

from collections.abc import Iterable

WEIGHTS = {"interactive": 6, "standard": 3, "batch": 1}


class WeightedCycle:
    """Smooth weighted round robin (the algorithm of nginx's upstream balancer), as kombu's queue order.

    kombu asks for an order before each blocking pop and says afterwards which queue gave a message.
    A queue earns its weight at each message taken and pays the sum of all when it was the one;
    whoever is owed most is looked into first. An empty queue is simply passed over by Redis.
    """

    def __init__(self, queues: Iterable[str] | None = None) -> None:
        self.update(queues or ())

    def update(self, queues: Iterable[str]) -> None:
        self.owed: dict[str, int] = {queue: weight(queue) for queue in queues}

    def consume(self, n: int) -> list[str]:
        """The first `n` queues to look into, the one that is owed most in front."""
        return sorted(self.owed, key=lambda queue: self.owed[queue], reverse=True)[:n]

    def rotate(self, last_used: str) -> str:
        """Accounts for a message taken from `last_used`."""
        limit = sum(weight(queue) for queue in self.owed)
        for queue in self.owed:
            self.owed[queue] = min(self.owed[queue] + weight(queue), limit)
        self.owed[last_used] -= limit
        return last_used


def weight(queue: str) -> int:
    return WEIGHTS.get(queue, max(WEIGHTS.values()))
