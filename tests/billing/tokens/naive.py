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
    """By one job from one lot, for the platform or the maker."""

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
        self.jobs: dict[tuple[UUID, str], dict[UUID, Drawn]] = {}
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

    def capture(self, job: tuple[UUID, str], number: int) -> None:
        lot = self.order()[0]
        drawn = self.jobs.setdefault(job, {}).setdefault(lot.id, Drawn(lot))
        drawn.tokens += 1
        drawn.cents += lot.take("capture")

    def refund(self, job: tuple[UUID, str], number: int) -> None:
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

    def cost(self, job: UUID) -> dict[tuple[UUID, str], tuple[int, int]]:
        """What a job took of each lot and did not get back, in Tokens and cents."""
        found: dict[tuple[UUID, str], tuple[int, int]] = {}
        for (reference, _), drawn in self.jobs.items():
            for lot, currency, tokens, cents in [each.net for each in drawn.values() if reference == job]:
                before = found.get((lot, currency), (0, 0))
                found[lot, currency] = (before[0] + tokens, before[1] + cents)
        return {lot: net for lot, net in found.items() if net[0]}

    def away(self, lot: UUID, owed: int) -> dict[UUID, int]:
        """What is away of the maker's earnings from a lot, by job, while so much is owed for it."""
        gone = self.lot(lot).gone
        back = sum(drawn[lot].back for drawn in self.jobs.values() if lot in drawn)
        spent = gone.get("capture", 0) + gone.get("settlement", 0) - back
        kept = {job: drawn[lot].tokens - drawn[lot].back for (job, whom), drawn in self.jobs.items()
                if whom == "creator" and lot in drawn}  # fmt: skip
        return {job: each * min(owed, spent) // spent for job, each in kept.items() if spent}

    def lot(self, lot: UUID) -> Lot:
        return next(each for each in self.lots if each.id == lot)
