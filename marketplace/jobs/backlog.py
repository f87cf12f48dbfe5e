"""How many jobs of an account wait for a worker, which its tier limits.

A purchase is not to wait for a count. So a process counts an account's queued jobs now and then, and in between only
what it buys itself: it counts again once that is a quarter of what was left, or after some seconds. Each process may so
let through a quarter of the rest too many.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from uuid import UUID

from billing.prepared import run
from marketplace.jobs.errors import QueueFull

KNOWN_SECONDS = 10.0
KNOWN_ACCOUNTS = 10_000
# Jobs not sent yet are few, unless the dispatcher is away; no further than this they are looked through.
FRESH = 10_000

_COUNT = f"""
SELECT (
    SELECT count(*) FROM (
        SELECT FROM jobs_job WHERE account_id = %(account_id)s AND status = 'queued' AND dispatched_at IS NOT NULL
        LIMIT %(most)s::int
    ) AS sent
) + (
    SELECT count(*) FROM (
        SELECT account_id FROM jobs_job WHERE status = 'queued' AND dispatched_at IS NULL LIMIT {FRESH}
    ) AS fresh WHERE account_id = %(account_id)s
)"""


@dataclass(slots=True)
class _Known:
    counted: int
    until: float
    bought: int = 0


_known: dict[UUID, _Known] = {}
_lock = threading.Lock()


def check(account_id: UUID, most: int) -> None:
    """Check that another job may be queued, and count it. Raises QueueFull if `most` of them wait."""
    now = time.monotonic()
    known = _known.get(account_id)
    if known is None or now >= known.until or known.bought * 4 >= most - known.counted:
        row = run(_COUNT, {"account_id": account_id, "most": most})
        known = _Known(row[0] if row else 0, now + KNOWN_SECONDS)
        with _lock:
            if len(_known) >= KNOWN_ACCOUNTS:
                _known.clear()
            _known[account_id] = known
    if known.counted >= most:
        raise QueueFull(most)
    known.bought += 1
