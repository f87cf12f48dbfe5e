"""Lots by the letter: one milli-Token at a time, from the first transfer on, with lists and dictionaries."""

from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

PAST, SOON, LATER, NEVER = range(4)
"""When a lot expires: LATER is a grace period, which comes after SOON and in the order of the refunds that gave it."""


@dataclass
class Lot:
    id: UUID
    paid: bool
    amount: int
    price: int
    currency: str
    expires: tuple[int, int]
    left: int = 0
    spent: int = 0
    gone: dict[str, int] = field(default_factory=dict)
    """milli-Tokens by the kind of the transfer that took them."""

    def take(self, kind: str) -> int:
        """One milli-Token; the cents that go with it."""
        self.left -= 1
        self.gone[kind] = self.gone.get(kind, 0) + 1
        cents = max(0, self.price * (self.amount - self.left) // self.amount - self.spent)
        self.spent += cents
        return cents


@dataclass
class Drawn:
    """By one job from one lot."""

    lot: Lot
    tokens: int = 0
    cents: int = 0
    back: int = 0

    @property
    def net(self) -> tuple[UUID, str, int, int]:
        returned = self.cents * self.back // self.tokens
        return self.lot.id, self.lot.currency, self.tokens - self.back, self.cents - returned


class Lots:
    """One wallet's, after these transfers: `(kind, amount, what it names)`."""

    def __init__(self, transfers: list[tuple[str, int, Any]]) -> None:
        self.lots: list[Lot] = []
        self.jobs: dict[UUID, dict[UUID, Drawn]] = {}
        for number, (kind, amount, named) in enumerate(transfers):
            for _ in range(amount if kind != "in" else 0):
                getattr(self, kind)(named, number)
            if kind == "in":
                self.lots.append(Lot(*named, left=amount))

    def order(self) -> list[Lot]:
        """What is left, in the order in which it is spent."""
        left = [(lot, age) for age, lot in enumerate(self.lots) if lot.left]
        return [
            lot for lot, _ in sorted(left, key=lambda it: (it[0].expires[0] != PAST, it[0].paid, it[0].expires, it[1]))
        ]

    def capture(self, job: UUID, number: int) -> None:
        lot = self.order()[0]
        drawn = self.jobs.setdefault(job, {}).setdefault(lot.id, Drawn(lot))
        drawn.tokens += 1
        drawn.cents += lot.take("capture")

    def refund(self, job: UUID, number: int) -> None:
        drawn = [each for each in self.jobs[job].values() if each.back < each.tokens][-1]
        cents = drawn.cents * (drawn.back + 1) // drawn.tokens - drawn.cents * drawn.back // drawn.tokens
        drawn.back += 1
        drawn.lot.left += 1
        drawn.lot.spent -= cents
        if drawn.lot.expires[0] == PAST:
            drawn.lot.expires = (LATER, number)

    def expiry(self, lot: UUID, number: int) -> None:
        self.lot(lot).take("expiry")

    def clawback(self, lot: UUID, number: int) -> None:
        self.lot(lot).take("clawback")

    def settlement(self, _: None, number: int) -> None:
        next(lot for lot in self.order() if lot.paid).take("settlement")

    def lot(self, lot: UUID) -> Lot:
        return next(each for each in self.lots if each.id == lot)
