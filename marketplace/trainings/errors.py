"""The errors of trainings.

TrainingError
├── NotFound          no such training in this account
├── NotCancelable     it has already ended
├── QueueFull         as many of the account's trainings wait or run as may
├── NotEnded          it has not ended yet
├── Unusable          what was trained cannot be used, and why
├── NoSuchStep        there is no adapter of that step, or it is not kept any more
├── CostAboveMaximum  the quote exceeds the customer's max_cost
├── KeyReused         the idempotency key was used before, with another body
└── LeaseLost         the training is no longer this trainer's; nothing was written
"""

from __future__ import annotations

from dataclasses import dataclass


class TrainingError(Exception):
    pass


class NotFound(TrainingError):
    pass


class NotCancelable(TrainingError):
    pass


class NotEnded(TrainingError):
    pass


class Unusable(TrainingError):
    pass


class NoSuchStep(TrainingError):
    pass


class KeyReused(TrainingError):
    pass


class LeaseLost(TrainingError):
    pass


@dataclass
class QueueFull(TrainingError):
    """As many of the account's trainings wait or run as may."""

    most: int


@dataclass
class CostAboveMaximum(TrainingError):
    """A quote above the customer's maximum; amounts in milli-Tokens."""

    quoted: int
    maximum: int
