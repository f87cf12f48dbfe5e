"""Rules that say how many machines a fleet should have, asked every 15 seconds.

Less is wanted only when it was so for five minutes without a break, as in Kubernetes' HorizontalPodAutoscaler, whose
formula for a target share the first rule uses: machines × share / target, with a tolerance of a tenth.
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
    """What a fleet can tell: the share of the time since the last question that GPUs were busy, the share of the
    machines' places that are taken, requests that found none, and for how many seconds the oldest has been waiting."""

    now: float
    machines: int
    starting: int
    busy: float
    slots_taken: float
    waiting: int
    waited: float


class Rule(Protocol):
    def first(self) -> int:
        """Machines to begin with."""

    def wanted(self, signals: Signals) -> int:
        """Machines to have, those that start included."""


@dataclass
class Fixed:
    """Always as many."""

    count: int

    def first(self) -> int:
        return self.count

    def wanted(self, signals: Signals) -> int:
        return self.count


@dataclass
class Patient:
    """The most that was wanted in the last five minutes, where that is no more than there are."""

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
    """A target share of busy time."""

    target: float = 0.7

    def wanted(self, signals: Signals) -> int:
        return self.stabilise(signals, proportional(signals, signals.busy / self.target))


@dataclass
class Slots(Patient):
    """A target share of the places that workers have for requests; what waits counts as if it had one."""

    target: float = 0.15
    slots: int = 16

    def wanted(self, signals: Signals) -> int:
        load = signals.slots_taken + signals.waiting / (self.slots * max(1, signals.machines))
        return self.stabilise(signals, proportional(signals, load / self.target))


@dataclass
class QueueWait(Patient):
    """A quarter more while somebody has waited longer than the limit; a tenth less while GPUs are half idle."""

    limit: float = 5.0

    def wanted(self, signals: Signals) -> int:
        have = signals.machines + signals.starting
        if signals.waited > self.limit and not signals.starting:
            return self.stabilise(signals, ceil(1.25 * have))
        return self.stabilise(signals, have - ceil(have / 10) if signals.busy < 0.5 else have)


@dataclass
class Scheduled:
    """By a plan: machines at a time, asked for `lead` seconds ahead."""

    plan: Callable[[float], float]
    lead: float

    def first(self) -> int:
        return ceil(self.plan(0.0))

    def wanted(self, signals: Signals) -> int:
        return ceil(max(self.plan(signals.now), self.plan(signals.now + self.lead)))


@dataclass
class Most:
    """What the one that wants most of several rules wants."""

    rules: tuple[Rule, ...]

    def first(self) -> int:
        return max(rule.first() for rule in self.rules)

    def wanted(self, signals: Signals) -> int:
        return max(rule.wanted(signals) for rule in self.rules)


def proportional(signals: Signals, ratio: float) -> int:
    """So many machines that the ratio of load to target would be 1."""
    if abs(ratio - 1) <= TOLERANCE:
        return signals.machines + signals.starting
    return ceil(signals.machines * ratio)
