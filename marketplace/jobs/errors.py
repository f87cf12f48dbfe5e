"""The errors of jobs.

JobError
├── NotFound             no such job in this account
├── NotCancelable        it has already ended
├── NotEnded             it can only be forgotten once it has ended
├── CostAboveMaximum     the quote exceeds the customer's max_cost
├── QueueFull            as many of the account's jobs wait for a worker as may
├── KeyReused            the idempotency key was used before, with another body
└── LeaseLost            the job is no longer this worker's; nothing was written
"""

from __future__ import annotations

from dataclasses import dataclass


class JobError(Exception):
    pass


class NotFound(JobError):
    pass


class NotCancelable(JobError):
    pass


class NotEnded(JobError):
    pass


@dataclass
class CostAboveMaximum(JobError):
    """A quote above the customer's maximum; amounts in milli-Tokens."""

    quoted: int
    maximum: int


class KeyReused(JobError):
    pass


class LeaseLost(JobError):
    pass


@dataclass
class QueueFull(JobError):
    """As many of the account's jobs wait for a worker as may."""

    most: int
