"""Seeded traces of requests, as arrays: who asks for what, and when.

Accounts are Zipf distributed (the k-th asks 1/k as often as the first). A latent cache is modelled as a share of
requests with a hit and a share of steps that a hit saves.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.simulate.step_times import StepTimes

CLASSES = ("interactive", "standard", "batch")
SHARES = (0.5, 0.3, 0.2)
STEPS = (8, 12, 20, 30, 40)
ACCOUNTS = 10_000
HOUR = 3600.0

Floats = NDArray[np.float64]
Rate = Callable[[Floats], Floats]


@dataclass(frozen=True)
class Mix:
    """A mix of requests: sides in pixels with their shares, the share with guidance, the cache's two shares."""

    sides: tuple[int, ...] = (512, 768, 1024)
    shares: tuple[float, ...] = (0.35, 0.25, 0.4)
    guided: float = 0.7
    cached: float = 0.0
    saved: float = 0.0


@dataclass(frozen=True)
class Trace:
    """A trace of requests by arrival, in seconds from the start; `skipped`: the first steps that a hit saves."""

    arrivals: Floats
    accounts: NDArray[np.int64]
    classes: NDArray[np.int64]
    sides: NDArray[np.int64]
    steps: NDArray[np.int64]
    guided: NDArray[np.bool_]
    skipped: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.arrivals)

    def work(self, times: StepTimes) -> float:
        """Return the seconds of one GPU that makes every picture alone."""
        rows = (self.sides // 16) ** 2
        kinds, counts = np.unique(np.stack([rows, self.guided, self.steps - self.skipped]), axis=1, return_counts=True)
        return sum(
            float(count)
            * (steps * times.step(row, row * (1 + guided)) + (1 + guided) * times.encode + row * times.decode)
            for (row, guided, steps), count in zip(kinds.T.tolist(), counts.tolist(), strict=True)
        )


def poisson(times: Floats) -> Floats:
    """Return the rate at a time: always the same."""
    return np.ones_like(times)


def diurnal(times: Floats) -> Floats:
    """Return the rate at a time: nine times as many at noon as at midnight."""
    return 1 - 0.8 * np.cos(2 * np.pi * times / (24 * HOUR))


def bursts(times: Floats) -> Floats:
    """Return the rate at a time: a day with six bursts of ten minutes, each three times the usual rate."""
    begins = np.random.default_rng(7).uniform(0, 24 * HOUR, 6)
    within = (times[:, None] >= begins) & (times[:, None] < begins + HOUR / 6)
    return diurnal(times) * np.where(within.any(axis=1), 3.0, 1.0)


def draw(count: int, seconds: float, rate: Rate, mix: Mix, seed: int) -> Trace:
    """Draw so many requests in that time, as a Poisson process whose rate follows `rate`."""
    random = np.random.default_rng(seed)
    grid = np.linspace(0, seconds, 1 + max(1, round(seconds / 10)))
    passed = np.concatenate([[0.0], np.cumsum(rate((grid[1:] + grid[:-1]) / 2))])
    steps = random.choice(STEPS, count)
    weights = 1 / np.arange(1, ACCOUNTS + 1)
    return Trace(
        arrivals=np.interp(np.sort(random.uniform(0, passed[-1], count)), passed, grid),
        accounts=random.choice(ACCOUNTS, count, p=weights / weights.sum()),
        classes=random.choice(len(CLASSES), count, p=SHARES),
        sides=random.choice(mix.sides, count, p=mix.shares),
        steps=steps,
        guided=random.random(count) < mix.guided,
        skipped=np.where(random.random(count) < mix.cached, np.floor(mix.saved * steps), 0).astype(np.int64),
    )
