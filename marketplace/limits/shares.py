"""Callers' limits as this process knows them: it takes a hundredth of a quota at a time, and counts that out by itself.

So most requests ask nobody, and no process lets anybody have more than the quota. The price is that the rest of a share
is lost to a caller who goes on at another process: up to a hundredth of the quota a process and window. Of quotas below
200 a share is one request. Who was refused is refused here until there is more, without asking Redis.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

from marketplace.limits.counts import Count, Wanted, counts
from marketplace.limits.policies import REQUESTS, LimitReached, Policy, Standing

SHARE = 100
# Callers that a process remembers; a limit, since anybody can be one.
MOST = 20_000


@dataclass(slots=True)
class _Share:
    """What is left of a share, and of the quota beyond it (None: unknown); times are monotonic."""

    left: int = 0
    beyond: int | None = None
    more_at: float = 0.0
    ends_at: float = 0.0
    refused: float = inf


@dataclass(slots=True)
class _Taking:
    """One policy by which a request is counted, and how much of it is asked of Redis."""

    wanted: Wanted
    share: _Share
    now: float
    asked: int = 0

    @property
    def is_refused(self) -> bool:
        """Return whether so much was refused a moment ago, and there is no more since."""
        return self.wanted.cost >= self.share.refused and self.now < self.share.more_at

    @property
    def standing(self) -> Standing:
        share = self.share
        if share.beyond is None:
            return Standing(self.wanted.policy)
        return Standing(self.wanted.policy, share.beyond + share.left, max(0.0, share.more_at - self.now))

    def spend(self) -> bool:
        """Spend some of the share; else say how much is to be asked for: less and less, the less there is."""
        share, policy, cost = self.share, self.wanted.policy, self.wanted.cost
        if self.now >= share.ends_at:
            share.left = 0
        if share.left >= cost:
            share.left -= cost
            return True
        beyond = policy.quota if share.beyond is None else share.beyond
        self.asked = max(cost, min(policy.quota // SHARE, beyond // 10)) if policy.unit == REQUESTS else cost
        return False

    def learn(self, found: Count) -> None:
        share = self.share
        share.beyond, share.more_at = found.left, self.now + found.resets_in
        share.refused = inf if found.taken else self.wanted.cost
        if found.taken:
            share.left += self.asked - self.wanted.cost
            share.ends_at = self.now + self.wanted.policy.seconds


_shares: dict[tuple[Policy, str], _Share] = {}
_lock = threading.Lock()


def take(wanted: Sequence[Wanted]) -> tuple[Standing, ...]:
    """Count a request by all of these policies, and return where its caller stands. Raises LimitReached.

    While Redis is away everything is let through, and what is left is unknown.
    """
    now = time.monotonic()
    with _lock:
        takings = [_Taking(each, _share(each), now) for each in wanted]
        _refuse(takings, [each for each in takings if each.is_refused])
        due = [each for each in takings if not each.spend()]
    while due:
        due = _ask(takings, due)
    return tuple(each.standing for each in takings)


def forget() -> None:
    """Forget what this process knows, for tests."""
    with _lock:
        _shares.clear()
    counts.cache_clear()


def _share(wanted: Wanted) -> _Share:
    key = wanted.policy, wanted.who
    found = _shares.get(key)
    if found is None:
        if len(_shares) >= MOST:
            _shares.clear()
        found = _shares[key] = _Share()
    return found


def _ask(takings: Sequence[_Taking], due: Sequence[_Taking]) -> list[_Taking]:
    """Have Redis count what the shares lack; return those that are to be asked for as their cost alone."""
    found = counts().take([each.wanted._replace(cost=each.asked) for each in due])
    with _lock:
        if found is None:
            for each in due:
                each.share.beyond = None
            return []
        for each, answer in zip(due, found, strict=True):
            each.learn(answer)
    refused = [each for each, answer in zip(due, found, strict=True) if not answer.taken]
    smaller = [each for each in refused if each.asked > each.wanted.cost]
    _refuse(takings, [each for each in refused if each not in smaller])
    for each in smaller:
        each.asked = each.wanted.cost
    return smaller


def _refuse(takings: Sequence[_Taking], refused: Sequence[_Taking]) -> None:
    """Raise LimitReached for the policy that lasts longest, if any refused."""
    if refused:
        longest = max((each.standing for each in refused), key=lambda each: each.resets_in or 0.0)
        raise LimitReached(longest, tuple(each.standing for each in takings))
