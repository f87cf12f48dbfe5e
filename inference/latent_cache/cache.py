"""Looks up latents to begin from, and keeps those of pictures that began from noise; used by the engine's threads.

Kept are intermediate latents at the mapping's noise levels, not finished ones to be noised again: those go on where the
earlier picture was, on its own path (Agarwal et al. 2024, "Approximate Caching for Efficiently Serving Diffusion
Models", Nirvana), and what a hit took can be measured, since the same path can be walked from its beginning (`shadow`).
Levels are known by sigma, so that schedules of other lengths can join. A hit is not kept: its errors would add up.

Storing is done by a thread of its own, and let go of where that falls behind. Whatever is wrong with a store or an
entry, the request is denoised in full.
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
from uuid import uuid4
from weakref import WeakKeyDictionary

import numpy as np
import torch

from inference.latent_cache import entries
from inference.latent_cache.entries import Description, Feature
from inference.latent_cache.mapping import Mapping as Calibration
from inference.latent_cache.reuse import Hit
from inference.latent_cache.stores import Shelf, Store, StoreUnavailable
from inference.latent_cache.wording import signature
from inference.request import Operation, Request

log = logging.getLogger(__name__)

# an entry's worth halves in so long
HALF_LIFE_SECONDS = 7 * 24 * 3600
EPOCH = datetime(2026, 1, 1, tzinfo=UTC).timestamp()
MAX_UNWRITTEN = 8
PAUSE_SECONDS = 10.0
# sigmas this close are one
SAME_SIGMA = 1e-4
# whose descriptions are kept in memory; customers choose what makes a shelf
MAX_SHELVES = 256


@dataclass
class _Seen:
    """What a look-up learnt of a request, for when its latents are offered."""

    feature: Feature
    wording: str
    hit: Hit | None
    kept: dict[float, torch.Tensor] = field(default_factory=dict)


class LatentCache:
    """`look_up` and `offer` are each one thread's of the engine; `close` is its owner's.

    Entries of `shared` owners are everybody's to begin from: templates that the operator published.
    """

    def __init__(self, store: Store, calibration: Calibration, *, shared: Sequence[str] = ()) -> None:
        self.calibration = calibration
        self._store = store
        self._shared = tuple(shared)
        # the shelf read last is the last one
        self._known: OrderedDict[Shelf, dict[str, Description]] = OrderedDict()
        self._seen: WeakKeyDictionary[Request, _Seen] = WeakKeyDictionary()
        self._writer = ThreadPoolExecutor(1, "kiln-latents")
        self._unwritten = threading.Semaphore(MAX_UNWRITTEN)
        self._paused_until = 0.0
        self.on_hit: Callable[[Request, Hit], None] | None = None

    def look_up(self, request: Request) -> Hit | None:
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
        """At the last of the levels a request's latents are stored."""
        if (seen := self._seen.get(request)) is None:
            return
        try:
            self._keep(request, seen)
        except Exception as error:  # noqa: BLE001 - the request goes on
            del self._seen[request]
            self._pause(error)

    def flush(self) -> None:
        """Return once all that was offered so far is stored."""
        self._writer.submit(lambda: None).result()

    def in_background(self, act: Callable[..., None], *arguments: object) -> None:
        """Call behind what is being stored; no-op where that falls behind, quiet where it raises."""
        if not self._unwritten.acquire(blocking=False):
            return
        self._writer.submit(self._quietly, act, *arguments)

    def close(self) -> None:
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
            self.in_background(self._write, self._shelf(request.account, request), request.seed, request.steps, seen)
            del self._seen[request]

    def _find(self, request: Request, seen: _Seen) -> Hit | None:
        if time.monotonic() < self._paused_until:
            return None
        for similarity, name, found in self._candidates(request, seen):
            sigma = self.calibration.entry(similarity)
            usable = [each for each in found.sigmas if sigma is not None and each >= sigma - SAME_SIGMA]
            if usable and (hit := self._load(request, name, found, min(usable), similarity)):
                worth = _worth(hit.step, _bytes(hit.latents))
                self.in_background(self._store.credit, name, worth)
                return hit
            if usable:
                log.warning("an entry of the latent cache is broken and thrown away")
                self.in_background(self._store.discard, name)
        return None

    def _candidates(self, request: Request, seen: _Seen) -> list[tuple[float, str, Description]]:
        """Entries in the same words, made in at least as many steps, most similar first."""
        found = []
        for owner in dict.fromkeys((request.account, *self._shared)):
            for name, each in self._entries(self._shelf(owner, request)).items():
                if each.wording == seen.wording and each.steps >= request.steps:
                    found.append((float(np.dot(each.feature, seen.feature)), name, each))
        return sorted(found, key=lambda candidate: -candidate[0])

    def _entries(self, shelf: Shelf) -> Mapping[str, Description]:
        """A shelf's descriptions; only what is new is read from the store."""
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

    def _write(self, shelf: Shelf, seed: int, steps: int, seen: _Seen) -> None:
        latents = {entries.level(sigma): entries.pack(each) for sigma, each in seen.kept.items()}
        described = Description(seen.feature, seen.wording, seed, steps, tuple(seen.kept))
        size = sum(map(len, latents.values()))
        # until it was used: worth as much as if it had been once, at its middle level
        worth = _worth(steps // 2, size)
        self._store.put(shelf, uuid4().hex, described.to_bytes(), latents, worth)

    def _shelf(self, owner: str, request: Request) -> Shelf:
        alike = [
            self.calibration.revision,
            request.width,
            request.height,
            request.guidance_scale if request.guided else None,
            request.negative_prompt if request.guided else None,
            request.adapters,
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
        """Look nothing up for a while, and say so once: a store that is away would hold up every request."""
        if time.monotonic() >= self._paused_until:
            trace = None if isinstance(error, StoreUnavailable) else error
            log.warning("the latent cache pauses for %g seconds: %s", PAUSE_SECONDS, error, exc_info=trace)
        self._paused_until = time.monotonic() + PAUSE_SECONDS


def _is_eligible(request: Request) -> bool:
    """One step has nothing to skip, and leaves nothing that another one could."""
    drawn = request.use_cache and not request.deterministic and request.operation == Operation.GENERATE
    return drawn and request.state.text is not None and request.steps > 1


def _bytes(latents: torch.Tensor) -> int:
    return 2 * latents.numel()


def _worth(steps_saved: int, size: int) -> float:
    """Of one use: steps saved a byte, more the later it is, so that what was used long ago counts for less.

    Forward decay (Cormode et al. 2009): the sum of uses never has to be touched as time goes by.
    """
    return float(steps_saved / size * 2 ** ((time.time() - EPOCH) / HALF_LIFE_SECONDS))
