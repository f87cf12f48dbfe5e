"""Runs a batch so that whatever it raises costs as few pictures as possible, and proves that the engine still works.

A row whose numbers broke fails alone. Where memory runs out, the batch has the device to itself for another try; where
it does again, several rows are left as they were, for smaller batches. Where a batch of several raises otherwise, each
of its rows runs again by itself, so that the one at fault is found. After a batch of which every row raised, the engine
makes a picture that it made before: where it cannot, it stops.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from inference.card import ModelCard
from inference.errors import BrokenPicture, EngineFault, InferenceError
from inference.request import Request
from inference.runner import Runner, warm_up
from inference.scheduling.scheduler import Batch
from inference.watchdog import DeviceLock, RunningBatch

log = logging.getLogger(__name__)


class Stopped(Exception):
    """The engine was stopped before there was room for the batch."""


@dataclass
class Outcome:
    """What became of a batch: requests that are over, each with its error, and whether the engine works.

    `too_large`: there was no memory for so many rows, which are as they were.
    """

    failed: dict[Request, InferenceError] = field(default_factory=dict)
    too_large: bool = False
    works: bool = True


@dataclass(frozen=True)
class _Try:
    """What one try raised: on purpose, by request, or otherwise; when it began (monotonic seconds) and what it took."""

    failed: dict[Request, InferenceError]
    error: Exception | None
    since: float
    seconds: float

    @property
    def out_of_memory(self) -> bool:
        return self.error is not None and _out_of_memory(self.error)


class Recovery:
    """`enter` is asked with each batch that has its room on the device, and raises Stopped to call it off; `leave` is
    told of each batch that ran, when it began and its seconds; `limit` says after how many seconds one is stuck."""

    def __init__(
        self,
        runner: Runner,
        card: ModelCard,
        device_lock: DeviceLock,
        *,
        limit: Callable[[Batch], float],
        enter: Callable[[Batch, RunningBatch], None],
        leave: Callable[[Batch, float, float], None],
    ) -> None:
        self._runner = runner
        self._card = card
        self._device_lock = device_lock
        self._limit = limit
        self._enter = enter
        self._leave = leave

    def run(self, batch: Batch) -> Outcome:
        """Run a batch to its end. Raises Stopped."""
        outcome = self._run(batch)
        if sum(isinstance(error, EngineFault) for error in outcome.failed.values()) == len(batch.requests):
            outcome.works = self._still_works(batch)
        return outcome

    def _run(self, batch: Batch) -> Outcome:
        tried = self._try(batch, exclusive=any(request.deterministic for request in batch.requests))
        if tried.out_of_memory:
            _free_memory()
            tried = self._try(batch, exclusive=True)
        if tried.error is None or len(batch.requests) == 1:
            self._leave(batch, tried.since, tried.seconds)
            return Outcome({batch.requests[0]: _fault(batch, tried.error)} if tried.error else tried.failed)
        if tried.out_of_memory:
            _free_memory()
            return Outcome(too_large=True)
        log.warning("a batch of %d raised %r; running its rows alone", len(batch.requests), tried.error)
        outcome = Outcome()
        for request in batch.requests:
            outcome.failed |= self._run(Batch(batch.phase, (request,))).failed
        return outcome

    def _try(self, batch: Batch, *, exclusive: bool) -> _Try:
        with self._device_lock.hold(batch, self._limit(batch), exclusive=exclusive) as running:
            self._enter(batch, running)
            failed, error = self._attempt(batch)
            return _Try(failed, error, running.since, running.seconds)

    def _attempt(self, batch: Batch) -> tuple[dict[Request, InferenceError], Exception | None]:
        try:
            self._runner.run(batch)
        except InferenceError as error:
            rows = error.rows if isinstance(error, BrokenPicture) else ()
            broken = [batch.requests[row] for row in rows] or batch.requests
            return dict.fromkeys(broken, error), None
        except Exception as error:  # noqa: BLE001 - judged above
            if _out_of_memory(error):
                error.__traceback__ = None  # its frames hold what the forward had in hand
            return {}, error
        return {}, None

    def _still_works(self, batch: Batch) -> bool:
        try:
            with self._device_lock.hold(batch, self._limit(batch), exclusive=True):
                warm_up(self._runner, self._card)
        except Exception:
            log.exception("the engine cannot make its smallest picture any more, and stops")
            return False
        return True


def _fault(batch: Batch, error: Exception) -> EngineFault:
    log.error("a request raised in %s", batch.phase, exc_info=error)
    fault = EngineFault(f"{batch.phase} raised {error!r}")
    fault.__cause__ = error
    return fault


def _out_of_memory(error: Exception) -> bool:
    """Also on a CPU, where it is no error of its own."""
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)


def _free_memory() -> None:
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
