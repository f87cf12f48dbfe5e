"""Computes a sample of hits again in full and, if they drift too far, requires more similarity; it needs no judge.

A hit took some of its steps with another prompt. Its shadow takes all steps with its own prompt, from the same noise,
so the difference between the two pictures is the hit's error (`drift`). How much of it is harmless is calibrated with
the mapping. Shadows run after everything that customers wait for, and nobody is charged for them. What they find, and
what follows from it, is kept in the store, where all workers read it.
"""

import hashlib
import json
import logging
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from math import sqrt
from typing import NamedTuple

import torch

from inference.latent_cache.cache import LatentCache
from inference.latent_cache.mapping import NEVER, Mapping, Point
from inference.latent_cache.reuse import Hit
from inference.latent_cache.stores import Store
from inference.request import Request
from inference.state import Picture

log = logging.getLogger(__name__)

# the account of shadows, so that they use no customer's share
ACCOUNT = "shadows"
MAX_RECORDS = 500
MAX_OF_ACCOUNT = MAX_RECORDS // 10
ENOUGH = 12
# shadows waiting or running; each holds a picture's latents
MAX_WAITING = 4
EXCHANGE_SECONDS = 60.0


class Record(NamedTuple):
    """What one shadow found about a hit that began at `sigma`; `account` is a pseudonym."""

    sigma: float
    similarity: float
    drift: float
    account: str = ""


class Shadows:
    """Computes a share of a cache's hits again: of those with as many steps as the entry they began from."""

    def __init__(
        self,
        cache: LatentCache,
        store: Store,
        submit: Callable[[Request], Future[Picture]],
        share: float = 0.02,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cache = cache
        self._store = store
        self._submit = submit
        self._share = share
        self._clock = clock
        self._dice = random.Random()
        self._worker = ThreadPoolExecutor(1, "kiln-shadows")
        self._waiting = threading.Semaphore(MAX_WAITING)
        self._tightening = threading.Lock()
        self._learnt = cache.calibration
        learnt = json.dumps(self._learnt.to_json()).encode()
        self._note = f"shadows {self._learnt.revision} {hashlib.sha256(learnt).hexdigest()[:16]}"
        self._exchange_at = self._clock() + EXCHANGE_SECONDS
        try:
            self._exchange()
        except Exception:
            log.exception("the records of shadows could not be read")
            self._exchange_at = 0.0
        cache.on_hit = self._consider

    def flush(self) -> None:
        """Wait until all shadows so far have been computed."""
        self._worker.submit(lambda: None).result()

    def _consider(self, request: Request, hit: Hit) -> None:
        if self._clock() >= self._exchange_at:
            self._exchange_at = self._clock() + EXCHANGE_SECONDS
            self._cache.in_background(self._exchange)
        if hit.steps != request.steps or self._dice.random() >= self._share:
            return
        if self._waiting.acquire(blocking=False):
            assert request.state.latents is not None
            shadow = replace(
                request,
                seed=hit.seed,
                use_cache=False,
                on_step=None,
                service_class="batch",
                account=ACCOUNT,
                reference="a shadow",
            )
            of = Record(hit.sigma, hit.similarity, 0.0, self._disguised(request.account))
            self._worker.submit(self._recompute, shadow, of, request.state.latents)

    def _recompute(self, shadow: Request, of: Record, arrived: torch.Tensor) -> None:
        try:
            self._submit(shadow).result()
            assert shadow.state.latents is not None
            self._exchange(of._replace(drift=drift(arrived, shadow.state.latents)))
        except Exception as error:  # noqa: BLE001 - nobody waits for a shadow
            log.warning("a shadow was lost: %r", error)
        finally:
            self._waiting.release()

    def _exchange(self, *new: Record) -> None:
        """Add records to the store's note, and adopt what it says. If it cannot be read, nothing is written."""

        def added(content: bytes | None) -> bytes:
            note = json.loads(content) if content else {"points": [], "records": []}
            records = bounded([*(Record(*record) for record in note["records"]), *new])
            points = self._tighten([Point(*point) for point in note["points"]], records)
            return json.dumps({"points": points, "records": records}).encode()

        self._store.change_note(self._note, added)

    def _tighten(self, found: Sequence[Point], records: Sequence[Record]) -> list[Point]:
        """Tighten the mapping by points and records; return every point that is stricter than as calibrated."""
        with self._tightening:
            asked = tightened(self._cache.calibration, found, records)
            self._cache.calibration = asked
        pairs = zip(asked.points, self._learnt.points, strict=True)
        return [now for now, learnt in pairs if now.similarity > learnt.similarity]

    def _disguised(self, account: str) -> str:
        return hashlib.sha256(f"{self._note} {account}".encode()).hexdigest()[:12]


def bounded(records: Sequence[Record]) -> list[Record]:
    """Return the newest records, at most MAX_OF_ACCOUNT of any one account."""
    kept: list[Record] = []
    of_account: Counter[str] = Counter()
    for record in reversed(records):
        of_account[record.account] += 1
        if of_account[record.account] <= MAX_OF_ACCOUNT and len(kept) < MAX_RECORDS:
            kept.append(record)
    return kept[::-1]


def tightened(calibration: Mapping, found: Sequence[Point], records: Sequence[Record]) -> Mapping:
    """Return a mapping that requires at least as much as before, as the points, and as the records call for."""
    for point in found:
        calibration = calibration.tightened(point.sigma, point.similarity)
    alone = len({record.account for record in records}) == 1
    for sigma in calibration.sigmas:
        here = [record for record in records if calibration.point(record.sigma).sigma == sigma]
        evidence = here if alone else without_worst(here, calibration.drift)
        wanted = needed(evidence, calibration.drift, calibration.bound)
        if wanted > max(0.0, calibration.point(sigma).similarity):
            log.warning("hits at sigma %.3f require a similarity of %.4f from now on", sigma, wanted)
            calibration = calibration.tightened(sigma, wanted)
    return calibration


def without_worst(records: Sequence[Record], harmless: float) -> list[Record]:
    """Leave out the records of the account that drifted most often, so that no customer decides for all."""
    drifts = Counter(record.account for record in records if record.drift > harmless)
    worst = {account for account, _ in drifts.most_common(1)}
    return [record for record in records if record.account not in worst]


def drift(one: torch.Tensor, other: torch.Tensor) -> float:
    """Return the mean square difference of two pictures' latents [tokens, channels], whose deviation is about 1."""
    return float((one.float() - other.float().to(one.device)).square().mean())


def needed(records: Sequence[Record], harmless: float, bound: float) -> float:
    """Return the lowest similarity from which on drifts are as rare as the bound, within two deviations.

    0 if that holds for all records, or there are too few of them; NEVER if for none.
    """
    rest = sorted(records, key=lambda record: record.similarity)
    if len(rest) < ENOUGH:
        return 0.0
    for start in range(len(rest)):
        expected = bound * len(rest[start:])
        if sum(record.drift > harmless for record in rest[start:]) <= expected + 2 * sqrt(expected) + 0.5:
            return rest[start].similarity if start else 0.0
    return NEVER
