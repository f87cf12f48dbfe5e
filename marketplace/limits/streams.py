"""How many streams of events each account has open at this process."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from marketplace.limits.policies import STREAMS, LimitReached, Policy, Standing

SECONDS = 5
"""When to try again; streams end when their jobs do."""

_open: Counter[str] = Counter()
_lock = threading.Lock()


@contextmanager
def opened(account: str, most: int) -> Iterator[None]:
    """Count a stream as open. Raises LimitReached if the account has `most` of them open."""
    with _lock:
        if _open[account] >= most:
            raise LimitReached(Standing(Policy("streams", most, SECONDS, STREAMS), 0, SECONDS))
        _open[account] += 1
    try:
        yield
    finally:
        with _lock:
            _open.subtract([account])
            if not _open[account]:
                del _open[account]
