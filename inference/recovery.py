"""Runs a batch so that whatever it raises costs as few pictures as possible, and checks that the engine still works.

A row whose numbers are not finite fails alone. If memory runs out, what nobody uses is freed and the batch tried again
with the device to itself; if it runs out again, the rows are left as they were, to run in smaller batches (a single row
fails). A picture whose steps are all done is then decoded in pieces, if need be after a while. If a batch of several
rows raises anything else, each row runs again by itself, which finds the one at fault. If every row raised, the engine
repeats its warm-up, and stops if even that fails.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field

from inference import memory
from inference.card import ModelCard
from inference.errors import BrokenPicture, EngineFault, InferenceError
from inference.request import Phase, Request
from inference.runner import Runner, warm_up
from inference.scheduling.scheduler import Batch
from inference.watchdog import DeviceLock, RunningBatch

log = logging.getLogger(__name__)

# seconds before a picture that could not be decoded is tried again: whatever else took the memory may return it
PAUSES = (1.0, 5.0, 15.0)


class Stopped(Exception):
    """The engine was stopped before the batch had the device."""


@dataclass
class Outcome:
    """What became of a batch: the requests that failed, each with its error, and whether the engine still works.

    `too_large`: memory ran out, and the rows are as they were before.
    """

    failed: dict[Request, InferenceError] = field(default_factory=dict)
    too_large: bool = False
    works: bool = True


@dataclass(frozen=True)
class _Try:
    """One try at a batch: its failed requests, any unexpected error, its start (monotonic seconds) and its seconds."""

    failed: dict[Request, InferenceError]
    error: Exception | None
    since: float
    seconds: float

    @property
    def out_of_memory(self) -> bool:
        return self.error is not None and memory.ran_out(self.error)


class Recovery:
    """The runner, with a second try for batches that raise.

    `enter` is called when a batch gets the device, and may raise Stopped to call it off. `leave` is called after a
    batch that ran, with its start and its seconds. `limit` returns the seconds after which a batch counts as stuck.
    `free` frees what the device holds and nobody uses, `pause` waits some seconds, or less if the engine stops.
    """

    def __init__(
        self,
        runner: Runner,
        card: ModelCard,
        device_lock: DeviceLock,
        *,
        limit: Callable[[Batch], float],
        enter: Callable[[Batch, RunningBatch], None],
        leave: Callable[[Batch, float, float], None],
        free: Callable[[], None],
        pause: Callable[[float], None],
    ) -> None:
        self._runner = runner
        self._card = card
        self._device_lock = device_lock
        self._limit = limit
        self._enter = enter
        self._leave = leave
        self._free = free
        self._pause = pause

    def run(self, batch: Batch) -> Outcome:
        """Run a batch to its end. Raises Stopped if the engine stops first."""
        outcome = self._run(batch)
        if sum(isinstance(error, EngineFault) for error in outcome.failed.values()) == len(batch.requests):
            outcome.works = self._still_works(batch)
        return outcome

    def _run(self, batch: Batch) -> Outcome:
        tried = self._try(batch, self._runner.run, exclusive=any(request.deterministic for request in batch.requests))
        if tried.out_of_memory:
            self._free()
            tried = self._try(batch, self._runner.run, exclusive=True)
        if tried.out_of_memory and batch.phase is Phase.DECODE:
            tried = self._decode_in_pieces(batch)
        if tried.error is None or len(batch.requests) == 1:
            self._leave(batch, tried.since, tried.seconds)
            return Outcome({batch.requests[0]: _fault(batch, tried.error)} if tried.error else tried.failed)
        if tried.out_of_memory:
            self._free()
            return Outcome(too_large=True)
        log.warning("a batch of %d raised %r; running its rows alone", len(batch.requests), tried.error)
        outcome = Outcome()
        for request in batch.requests:
            outcome.failed |= self._run(Batch(batch.phase, (request,))).failed
        return outcome

    def _decode_in_pieces(self, batch: Batch) -> _Try:
        """Decode in pieces, and again after each of PAUSES, so that no step is lost as long as there is any hope."""
        tried = self._try(batch, self._runner.decode_in_pieces, exclusive=True)
        for seconds in PAUSES:
            if not tried.out_of_memory:
                break
            self._pause(seconds)
            self._free()
            tried = self._try(batch, self._runner.decode_in_pieces, exclusive=True)
        return tried

    def _try(self, batch: Batch, run: Callable[[Batch], None], *, exclusive: bool) -> _Try:
        with self._device_lock.hold(batch, self._limit(batch), exclusive=exclusive) as running:
            self._enter(batch, running)
            failed, error = self._attempt(batch, run)
            return _Try(failed, error, running.since, running.seconds)

    def _attempt(
        self, batch: Batch, run: Callable[[Batch], None]
    ) -> tuple[dict[Request, InferenceError], Exception | None]:
        try:
            run(batch)
        except InferenceError as error:
            rows = error.rows if isinstance(error, BrokenPicture) else ()
            broken = [batch.requests[row] for row in rows] or batch.requests
            return dict.fromkeys(broken, error), None
        except Exception as error:  # noqa: BLE001 - the caller decides
            if memory.ran_out(error):
                memory.let_go(error)
            return {}, error
        return {}, None

    def _still_works(self, batch: Batch) -> bool:
        try:
            with self._device_lock.hold(batch, self._limit(batch), exclusive=True):
                warm_up(self._runner, self._card)
        except Exception:
            log.exception("the engine can no longer make its smallest picture, and stops")
            return False
        return True


def _fault(batch: Batch, error: Exception) -> EngineFault:
    log.error("a request raised in %s", batch.phase, exc_info=error)
    fault = EngineFault(f"{batch.phase} raised {error!r}")
    fault.__cause__ = error
    return fault
