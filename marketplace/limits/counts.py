"""What callers have used, counted in Redis over sliding windows, for all processes together.

The counting is that of `limits`' strategy *sliding window counter*: two numbers a caller and policy, whatever the
quota, and no double quota where two windows meet. Its scripts are run in one pipeline, so that all policies of a
request, with what is left of each, cost one round trip.

While Redis is away nothing is counted: nobody waits for it again until PAUSE_SECONDS later, when one request looks.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

from django.conf import settings
from limits import RateLimitItemPerSecond
from limits.storage import RedisStorage
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from marketplace.limits.policies import Policy

PREFIX = "kiln:limits"
WAIT_SECONDS = 0.25
PAUSE_SECONDS = 5.0

logger = logging.getLogger(__name__)


class Wanted(NamedTuple):
    """So much of a policy, for whom."""

    policy: Policy
    who: str
    cost: int


class Count(NamedTuple):
    """Whether it was taken, how much is left, and in how many seconds there is more."""

    taken: bool
    left: int
    resets_in: float


class Counts:
    """The counts in one Redis."""

    def __init__(self, url: str) -> None:
        """Without an address it is always away."""
        options: dict[str, Any] = {
            "socket_timeout": WAIT_SECONDS,
            "socket_connect_timeout": WAIT_SECONDS,
            "retry": Retry(NoBackoff(), 0),
        }
        place = url.replace("unix://", "redis+unix://", 1)
        self._storage = RedisStorage(place, key_prefix=PREFIX, **options) if url else None
        self._away_until = 0.0
        self._looking = threading.Lock()

    def take(self, wanted: Sequence[Wanted]) -> list[Count] | None:
        """Take all that is wanted and fits, and say what is left; None while Redis is away."""
        if self._storage is None or time.monotonic() < self._away_until:
            return None
        if not self._away_until:
            return self._try(self._storage, wanted)
        if not self._looking.acquire(blocking=False):
            return None
        try:
            return self._try(self._storage, wanted)
        finally:
            self._looking.release()

    def reset(self) -> None:
        """Begin to count anew, for tests."""
        if self._storage is not None:
            self._storage.reset()

    def _try(self, storage: RedisStorage, wanted: Sequence[Wanted]) -> list[Count] | None:
        try:
            answers = _ask(storage, wanted)
        except RedisError as error:
            logger.warning("limits are not counted, since Redis is away: %s", error)
            self._away_until = time.monotonic() + PAUSE_SECONDS
            return None
        self._away_until = 0.0
        return [_count(each, *answer) for each, answer in zip(wanted, answers, strict=True)]


def _ask(storage: RedisStorage, wanted: Sequence[Wanted]) -> list[tuple[Any, Any]]:
    redis: Any = storage.get_connection()
    together = redis.pipeline(transaction=False)
    for policy, who, cost in wanted:
        key = RateLimitItemPerSecond(policy.quota, policy.seconds, namespace=policy.name).key_for(who)
        keys = [f"{PREFIX}:{{{key}}}/-1", f"{PREFIX}:{{{key}}}"]
        # the text and not its digest, which a Redis that was started again does not know
        together.eval(RedisStorage.SCRIPT_ACQUIRE_SLIDING_WINDOW, 2, *keys, policy.quota, policy.seconds, cost)
        together.eval(RedisStorage.SCRIPT_SLIDING_WINDOW, 2, *keys, policy.seconds)
    answers = together.execute()
    return list(zip(answers[::2], answers[1::2], strict=True))


def _count(wanted: Wanted, taken: Any, window: Any) -> Count:
    """Read the scripts' answers: the counts of the window before and of this one, with the milliseconds they live."""
    seconds, quota = wanted.policy.seconds, wanted.policy.quota
    before, before_lives, now, now_lives = (max(0, int(each or 0)) for each in window)
    left = max(0, quota - int(before * before_lives / 1000 / seconds) - now)
    # a count lives for two windows, its own and the next one, in which it still weighs
    resets = [max(0.0, now_lives / 1000 - seconds)] if now else []
    if before:
        resets.append(before_lives / 1000 % (seconds / before))
    return Count(bool(taken), left, min(resets, default=0.0))


@cache
def counts() -> Counts:
    return Counts(settings.REDIS_URL)
