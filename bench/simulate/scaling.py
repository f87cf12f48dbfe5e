"""Autoscaling rules, which say every 15 seconds how many machines a fleet should have.

They scale down only after wanting less for five minutes without a break, like Kubernetes' HorizontalPodAutoscaler,
whose formula for a target share they use as well: machines × share / target, with a tolerance of a tenth.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from math import ceil
from typing import Protocol

TOLERANCE = 0.1
PATIENCE = 300.0


@dataclass(frozen=True)
class Signals:
    """What a rule knows of a fleet: the share of time that GPUs were busy since the last question, the share of slots
    taken, the requests waiting for one, and the seconds that the oldest of these has waited."""

    now: float
    machines: int
    starting: int
    busy: float
    slots_taken: float
    waiting: int
    waited: float


class Rule(Protocol):
    """An autoscaling rule."""

    def first(self) -> int:
        """Return the machines to begin with."""

    def wanted(self, signals: Signals) -> int:
        """Return the machines to have, including those that start."""


@dataclass
class Fixed:
    """A fixed number of machines."""

    count: int

    def first(self) -> int:
        return self.count

    def wanted(self, signals: Signals) -> int:
        return self.count


@dataclass
class Patient:
    """A base for rules that scale down late: to the most that was wanted in the last five minutes."""

    count: int
    _wanted: deque[tuple[float, int]] = field(default_factory=deque)

    def first(self) -> int:
        return self.count

    def stabilise(self, signals: Signals, wanted: int) -> int:
        self._wanted.append((signals.now, wanted))
        while self._wanted[0][0] < signals.now - PATIENCE:
            self._wanted.popleft()
        return max(wanted, min(signals.machines + signals.starting, max(each for _, each in self._wanted)))


@dataclass
class Utilisation(Patient):
    """A rule with a target share of busy time."""

    target: float = 0.7

    def wanted(self, signals: Signals) -> int:
        return self.stabilise(signals, proportional(signals, signals.busy / self.target))


@dataclass
class Slots(Patient):
    """A rule with a target share of the workers' slots; requests that wait count as if they had one."""

    target: float = 0.15
    slots: int = 16

    def wanted(self, signals: Signals) -> int:
        load = signals.slots_taken + signals.waiting / (self.slots * max(1, signals.machines))
        return self.stabilise(signals, proportional(signals, load / self.target))


@dataclass
class QueueWait(Patient):
    """A quarter more machines while a request has waited too long; a tenth less while GPUs are half idle."""

    limit: float = 5.0

    def wanted(self, signals: Signals) -> int:
        have = signals.machines + signals.starting
        if signals.waited > self.limit and not signals.starting:
            return self.stabilise(signals, ceil(1.25 * have))
        return self.stabilise(signals, have - ceil(have / 10) if signals.busy < 0.5 else have)


@dataclass
class Scheduled:
    """A plan of machines over time, read `lead` seconds ahead."""

    plan: Callable[[float], float]
    lead: float

    def first(self) -> int:
        return ceil(self.plan(0.0))

    def wanted(self, signals: Signals) -> int:
        return ceil(max(self.plan(signals.now), self.plan(signals.now + self.lead)))


@dataclass
class Most:
    """The maximum of several rules."""

    rules: tuple[Rule, ...]

    def first(self) -> int:
        return max(rule.first() for rule in self.rules)

    def wanted(self, signals: Signals) -> int:
        return max(rule.wanted(signals) for rule in self.rules)


def proportional(signals: Signals, ratio: float) -> int:
    """Return the number of machines at which the load would equal the target."""
    if abs(ratio - 1) <= TOLERANCE:
        return signals.machines + signals.starting
    return ceil(signals.machines * ratio)
