"""The tier of an account: what it may ask for in a time, and keep.

A process remembers a tier for REMEMBERED_SECONDS, so that no request waits for it: so long a change takes to be felt.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, fields
from functools import cached_property
from uuid import UUID

from billing.errors import NoWallet
from billing.prepared import run
from marketplace.limits.policies import BYTES, DAY, HOUR, MINUTE, Policy

REMEMBERED_SECONDS = 10.0
REMEMBERED_ACCOUNTS = 10_000
MIB = 1024**2


@dataclass(frozen=True)
class Limits:
    """The columns of a tier."""

    requests_minute: int
    key_requests_minute: int
    requests_day: int
    upload_mb_hour: int
    queued_jobs: int
    streams: int
    files: int
    files_mb: int
    files_unfunded: int

    @cached_property
    def burst(self) -> Policy:
        return Policy("burst", self.requests_minute, MINUTE)

    @cached_property
    def sustained(self) -> Policy:
        return Policy("sustained", self.requests_day, DAY)

    @cached_property
    def key(self) -> Policy:
        return Policy("key", self.key_requests_minute, MINUTE)

    @cached_property
    def uploads(self) -> Policy:
        return Policy("uploads", self.upload_mb_hour * MIB, HOUR, BYTES)


_FIND = f"""
SELECT {", ".join(field.name for field in fields(Limits))}
FROM accounts_account AS account JOIN accounts_tier AS tier ON tier.id = account.tier_id
WHERE account.id = %(account_id)s
"""
_remembered: dict[UUID, tuple[float, Limits]] = {}


def of(account_id: UUID) -> Limits:
    """Return an account's limits. Raises NoWallet if there is no such account."""
    now = time.monotonic()
    known = _remembered.get(account_id)
    if known and known[0] > now:
        return known[1]
    row = run(_FIND, {"account_id": account_id})
    if row is None:
        raise NoWallet(account_id)
    if len(_remembered) >= REMEMBERED_ACCOUNTS:
        _remembered.clear()
    found = Limits(*row)
    _remembered[account_id] = now + REMEMBERED_SECONDS, found
    return found


def forget() -> None:
    """Read each tier anew, as after its change in this process."""
    _remembered.clear()
