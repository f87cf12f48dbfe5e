"""A policy, where a caller stands with it, and the headers that say both (RateLimit header fields, draft 11)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from math import ceil
from typing import NamedTuple

REQUESTS, BYTES = "requests", "content-bytes"
MINUTE, HOUR, DAY = 60, 3600, 24 * 3600


class Policy(NamedTuple):
    """At most `quota` in any `seconds`."""

    name: str
    quota: int
    seconds: int
    unit: str = REQUESTS

    def __str__(self) -> str:
        unit = "" if self.unit == REQUESTS else f';qu="{self.unit}"'
        return f'"{self.name}";q={self.quota}{unit};w={self.seconds}'


@dataclass(frozen=True, slots=True)
class Standing:
    """How much is left of a policy, and in how many seconds there is more. Both are None while Redis is away."""

    policy: Policy
    left: int | None = None
    resets_in: float | None = None

    def __str__(self) -> str:
        return f'"{self.policy.name}";r={self.left};t={whole_seconds(self.resets_in or 0)}'


class LimitReached(Exception):
    """A caller has used up a policy. `standings` are those of all policies that the request was counted by."""

    def __init__(self, standing: Standing, standings: tuple[Standing, ...] = ()) -> None:
        super().__init__(f"{standing.policy} is used up")
        self.policy, self.standings = standing.policy, standings or (standing,)
        self.retry_after = max(1, whole_seconds(standing.resets_in or 0))


def whole_seconds(seconds: float) -> int:
    return max(0, ceil(seconds))


@lru_cache(maxsize=1024)
def policies_header(policies: tuple[Policy, ...]) -> str:
    return ", ".join(map(str, policies))


def standings_header(standings: Iterable[Standing]) -> str:
    return ", ".join(str(each) for each in standings if each.left is not None)
