"""Looks up latents to begin from, and stores those of pictures that began from noise. Used by the engine's threads.

What is stored are intermediate latents at the mapping's noise levels, not finished ones to be noised again. A hit goes
on along the earlier picture's own path (Agarwal et al. 2024, "Approximate Caching for Efficiently Serving Diffusion
Models", Nirvana), and its error can be measured by following the same path from the beginning (`shadow`). Levels are
identified by sigma, so that they fit schedules of other lengths. Hits are not stored: their errors would add up.

A thread of its own stores the latents, and drops them if it falls behind. Whatever is wrong with a store or an entry,
the request is denoised in full.
"""

import hashlib
import json
import logging
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from weakref import WeakKeyDictionary

import numpy as np
import torch

from inference.latent_cache import entries
from inference.latent_cache.entries import Description, Feature
from inference.latent_cache.mapping import Mapping as Calibration
from inference.latent_cache.reuse import Hit
from inference.latent_cache.stores import Shelf, Store, StoreUnavailable, name_of
from inference.latent_cache.wording import signature
from inference.request import Operation, Request

log = logging.getLogger(__name__)

# an entry's worth halves in this time
HALF_LIFE_SECONDS = 7 * 24 * 3600
EPOCH = datetime(2026, 1, 1, tzinfo=UTC).timestamp()
MAX_UNWRITTEN = 8
PAUSE_SECONDS = 10.0
# sigmas this close count as equal
SAME_SIGMA = 1e-4
# how many shelves' descriptions are kept in memory; a limit, since customers' orders decide how many there are
MAX_SHELVES = 256


@dataclass
class _Seen:
    """What a look-up found out about a request, for when its latents are offered."""

    feature: Feature
    wording: str
    hit: Hit | None
    kept: dict[float, torch.Tensor] = field(default_factory=dict)


class LatentCache:
    """The latent cache over a store; `look_up` and `offer` are each called by one thread of the engine.

    Everybody may begin from entries of the `shared` owners: templates that the operator published.
    """

    def __init__(
        self,
        store: Store,
        calibration: Calibration,
        *,
        shared: Sequence[str] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.calibration = calibration
        self._store = store
        self._shared = tuple(shared)
        self._clock = clock
        # by last use
        self._known: OrderedDict[Shelf, dict[str, Description]] = OrderedDict()
        self._seen: WeakKeyDictionary[Request, _Seen] = WeakKeyDictionary()
        self._writer = ThreadPoolExecutor(1, "kiln-latents")
        self._unwritten = threading.Semaphore(MAX_UNWRITTEN)
        self._paused_until = 0.0
        self.on_hit: Callable[[Request, Hit], None] | None = None

    def look_up(self, request: Request) -> Hit | None:
        """Return latents for a request that was just encoded to begin from; None: begin from noise."""
        if not _is_eligible(request) or not self.calibration.sigmas:
            return None
        try:
            assert request.state.text is not None
            if (wording := signature(request.prompt)) is None:
                return None
            self._seen[request] = seen = _Seen(entries.feature(request.state.text), wording, None)
            seen.hit = self._find(request, seen)
        except Exception as error:  # noqa: BLE001 - whatever it is, the request is denoised in full
            self._pause(error)
            return None
        return seen.hit

    def offer(self, request: Request) -> None:
        """Collect a request's latents at the mapping's levels, and store them once the last level is reached."""
        if (seen := self._seen.get(request)) is None:
            return
        try:
            self._keep(request, seen)
        except Exception as error:  # noqa: BLE001 - the request goes on
            del self._seen[request]
            self._pause(error)

    def flush(self) -> None:
        """Wait until everything offered so far is stored."""
        self._writer.submit(lambda: None).result()

    def in_background(self, act: Callable[..., None], *arguments: object) -> None:
        """Call `act` after what is being stored; no-op if that falls behind. Errors are logged and not raised."""
        if not self._unwritten.acquire(blocking=False):
            return
        self._writer.submit(self._quietly, act, *arguments)

    def close(self) -> None:
        """End the thread that stores, once it is done."""
        self._writer.shutdown()

    def _keep(self, request: Request, seen: _Seen) -> None:
        assert request.state.latents is not None
        if seen.hit:
            if request.state.step_index == request.steps_due and self.on_hit:
                self.on_hit(request, seen.hit)
            return
        here, after = (
            request.state.sigmas[request.state.step_index],
            request.state.sigmas[min(request.state.step_index + 1, request.steps)],
        )
        if any(after < sigma - SAME_SIGMA <= here for sigma in self.calibration.sigmas):
            seen.kept[here] = request.state.latents.to(torch.bfloat16)
        if seen.kept and after < min(self.calibration.sigmas, default=math.inf) - SAME_SIGMA:
            self.in_background(self._write, self._shelf(request.account, request), request, seen)
            del self._seen[request]

    def _find(self, request: Request, seen: _Seen) -> Hit | None:
        if self._clock() < self._paused_until:
            return None
        for similarity, name, found in self._candidates(request, seen):
            sigma = self.calibration.entry(similarity)
            usable = [each for each in found.sigmas if sigma is not None and each >= sigma - SAME_SIGMA]
            if usable and (hit := self._load(request, name, found, min(usable), similarity)):
                worth = _worth(hit.step, _bytes(hit.latents))
                self.in_background(self._store.credit, name, worth)
                return hit
            if usable:
                log.warning("an entry of the latent cache is broken and discarded")
                self.in_background(self._store.discard, name)
        return None

    def _candidates(self, request: Request, seen: _Seen) -> list[tuple[float, str, Description]]:
        """Return the entries of the same wording, made in at least as many steps, most similar first."""
        found = []
        for owner in dict.fromkeys((request.account, *self._shared)):
            for name, each in self._entries(self._shelf(owner, request)).items():
                if each.wording == seen.wording and each.steps >= request.steps:
                    found.append((float(np.dot(each.feature, seen.feature)), name, each))
        return sorted(found, key=lambda candidate: -candidate[0])

    def _entries(self, shelf: Shelf) -> Mapping[str, Description]:
        """Return a shelf's descriptions by entry, reading only new ones from the store."""
        names = self._store.names(shelf)
        known = {name: each for name, each in self._known.pop(shelf, {}).items() if name in names}
        for name, content in self._store.descriptions(shelf, names - known.keys()).items():
            try:
                known[name] = Description.from_bytes(content)
            except (ValueError, KeyError, TypeError):
                self.in_background(self._store.discard, name)
        if known:
            self._known[shelf] = known
        if len(self._known) > MAX_SHELVES:
            self._known.popitem(last=False)
        return known

    def _load(self, request: Request, name: str, found: Description, sigma: float, similarity: float) -> Hit | None:
        assert request.state.latents is not None
        content = self._store.latents(name, found.levels[sigma])
        latents = entries.unpack(content, tuple(request.state.latents.shape)) if content else None
        if latents is None:
            return None
        step = min(range(1, request.steps), key=lambda index: abs(request.state.sigmas[index] - sigma))
        return Hit(latents, sigma, step, similarity, found.seed, found.steps)

    def _write(self, shelf: Shelf, request: Request, seen: _Seen) -> None:
        latents = {entries.level(sigma): entries.pack(each) for sigma, each in seen.kept.items()}
        described = Description(seen.feature, seen.wording, request.seed, request.steps, tuple(seen.kept))
        size = sum(map(len, latents.values()))
        # a new entry is worth as much as after one use at its middle level
        worth = _worth(request.steps // 2, size)
        self._store.put(shelf, name_of(request.reference), described.to_bytes(), latents, worth)

    def _shelf(self, owner: str, request: Request) -> Shelf:
        # by what they are, since any other adapter may lie at the same path tomorrow
        adapters = [(adapter.digest, scale) for adapter, scale in request.ticket.adapters]
        assert len(adapters) == len(request.adapters), "the adapters are on loan while a request runs"
        alike = [
            self.calibration.revision,
            request.width,
            request.height,
            request.guidance_scale if request.guided else None,
            request.negative_prompt if request.guided else None,
            adapters,
            request.state.sampler,
            request.step_cache,
        ]
        return Shelf(owner, hashlib.sha256(json.dumps(alike).encode()).hexdigest()[:32])

    def _quietly(self, act: Callable[..., None], *arguments: object) -> None:
        try:
            act(*arguments)
        except Exception as error:  # noqa: BLE001 - nobody waits for it
            self._pause(error)
        finally:
            self._unwritten.release()

    def _pause(self, error: Exception) -> None:
        """Look nothing up for a while, and log that once; an unreachable store would delay every request."""
        if self._clock() >= self._paused_until:
            trace = None if isinstance(error, StoreUnavailable) else error
            log.warning("the latent cache pauses for %g seconds: %s", PAUSE_SECONDS, error, exc_info=trace)
        self._paused_until = self._clock() + PAUSE_SECONDS


def _is_eligible(request: Request) -> bool:
    """Return whether a request may use the cache; with one step there is nothing to skip or to store."""
    drawn = request.use_cache and not request.deterministic and request.operation == Operation.GENERATE
    return drawn and request.state.text is not None and request.steps > 1


def _bytes(latents: torch.Tensor) -> int:
    return 2 * latents.numel()


def _worth(steps_saved: int, size: int) -> float:
    """Return the worth of one use: steps saved per byte, growing with time, so that old uses count for less.

    Forward decay (Cormode et al. 2009): a sum of uses never has to be updated as time goes by.
    """
    return float(steps_saved / size * 2 ** ((time.time() - EPOCH) / HALF_LIFE_SECONDS))
