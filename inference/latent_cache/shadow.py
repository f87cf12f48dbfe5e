"""Recomputes a sample of hits in full and, where they drift too far, asks for more similarity: no judge is needed.

A hit went some steps by another prompt. The shadow goes all steps by its own prompt, from the same noise, so that what
is between the two pictures is what the hit took (`drift`). How much of it is harmless is learnt with the mapping.
Shadows wait behind all that customers wait for, and nobody is charged for them. What they find is kept in the store.
"""

import json
import logging
import random
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from math import sqrt
from typing import NamedTuple

import torch

from inference.latent_cache.cache import Hit, LatentCache
from inference.latent_cache.mapping import NEVER
from inference.latent_cache.stores import Store, StoreUnavailable
from inference.request import Picture, Request

log = logging.getLogger(__name__)

MAX_RECORDS = 500
ENOUGH = 12


class Record(NamedTuple):
    """What one shadow found of a hit that began at `sigma`."""

    sigma: float
    similarity: float
    drift: float


class Shadows:
    """Watches the hits of a cache; `share` of them are computed once more."""

    def __init__(
        self, cache: LatentCache, store: Store, submit: Callable[[Request], Future[Picture]], share: float = 0.02
    ) -> None:
        self._cache = cache
        self._store = store
        self._submit = submit
        self._share = share
        self._dice = random.Random()
        self._worker = ThreadPoolExecutor(1, "kiln-shadows")
        self._note = f"calibration {cache.calibration.revision}"
        self._take_over(self._records())
        cache.on_hit = self._consider

    def _consider(self, request: Request, hit: Hit) -> None:
        if self._dice.random() < self._share:
            assert request.latents is not None
            self._worker.submit(self._recompute, request, hit, request.latents)

    def settle(self) -> None:
        """Return once all shadows so far have been computed."""
        self._worker.submit(lambda: None).result()

    def _recompute(self, request: Request, hit: Hit, arrived: torch.Tensor) -> None:
        shadow = replace(request, seed=hit.seed, use_cache=False, on_step=None, service_class="batch")
        try:
            self._submit(shadow).result()
            assert shadow.latents is not None
            self._learn(Record(hit.sigma, hit.similarity, drift(arrived, shadow.latents)))
        except Exception as error:  # noqa: BLE001 - nobody waits for a shadow
            log.warning("a shadow was lost: %r", error)

    def _learn(self, record: Record) -> None:
        records = [*self._records(), record][-MAX_RECORDS:]
        self._take_over(records)
        self._store.write_note(self._note, json.dumps(records).encode())

    def _records(self) -> list[Record]:
        try:
            content = self._store.note(self._note)
        except StoreUnavailable:
            return []
        return [Record(*record) for record in json.loads(content)] if content else []

    def _take_over(self, records: Sequence[Record]) -> None:
        calibration = self._cache.calibration
        for point in calibration.points:
            here = [record for record in records if calibration.point(record.sigma) == point]
            wanted = needed(here, calibration.drift, calibration.bound)
            if wanted > max(0.0, point.similarity):
                log.warning("hits at sigma %.3f ask for a similarity of %.4f from now on", point.sigma, wanted)
                calibration = calibration.tightened(point.sigma, wanted)
        self._cache.calibration = calibration


def drift(one: torch.Tensor, other: torch.Tensor) -> float:
    """Mean square between two pictures' latents [tokens, channels], which have a deviation of about 1."""
    return float((one.float() - other.float().to(one.device)).square().mean())


def needed(records: Sequence[Record], harmless: float, bound: float) -> float:
    """The lowest similarity from which on drifts are as rare as the bound, give or take two deviations; 0 where all
    are, NEVER where none are."""
    rest = sorted(records, key=lambda record: record.similarity)
    if len(rest) < ENOUGH:
        return 0.0
    for start in range(len(rest)):
        expected = bound * len(rest[start:])
        if sum(record.drift > harmless for record in rest[start:]) <= expected + 2 * sqrt(expected) + 0.5:
            return rest[start].similarity if start else 0.0
    return NEVER
