"""The engine: takes requests, returns futures, and runs two threads, each in a loop of schedule → run → finish: one for
denoising steps, one for codec work (reading, encoding and decoding pictures and prompts beside the steps).

Requests join and leave between denoising steps. The scheduler decides what runs next, the runner runs it, and recovery
handles a batch that raises; there is no queue and no arithmetic here.
"""

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import torch
from PIL import Image

from inference import calibration, memory, memory_profiles, pictures, previews
from inference.adapters import recipes
from inference.adapters.bank import Bank, Loan
from inference.backends import choice
from inference.backends.choice import Choice
from inference.calibration import StepTimes
from inference.card import ModelCard
from inference.errors import Canceled, EngineFault, EngineStopped, InferenceError
from inference.latent_cache.reuse import Reuse
from inference.models import catalog, qwen_image
from inference.models.forms import MemoryProfile
from inference.models.qwen_image import QwenImage
from inference.recovery import Outcome, Recovery, Stopped
from inference.request import Phase, Request
from inference.runner import Runner, warm_up
from inference.scheduling.scheduler import Batch, Scheduler
from inference.state import Picture
from inference.watchdog import STUCK_FACTOR, STUCK_SECONDS, DeviceLock, RunningBatch, Watchdog

log = logging.getLogger(__name__)

Argument = TypeVar("Argument")
Load = Callable[[ModelCard, torch.device, MemoryProfile], QwenImage]

# bytes of adapters kept on the device; for Qwen-Image's attention at rank 16 one takes 47 MB
MAX_ADAPTER_BYTES = {"cuda": 4 * 1024**3, "cpu": 1024**3}


@dataclass(frozen=True)
class BatchReport:
    """A batch that ran: its phase, number of requests, image tokens of its forward, and seconds.

    `waited`: seconds between the end of the last step and the start of this one, if a row of it had begun before; else
    0.
    """

    phase: str
    rows: int
    image_tokens: int
    seconds: float
    waited: float = 0.0


class Engine:
    """One model on one device, used as a context manager or with `start` and `stop`."""

    def __init__(
        self,
        model: str | Path | ModelCard | None = None,
        *,
        load: Load = qwen_image.load,
        device: str | None = None,
        backend: Choice | None = None,
        profile: str | None = None,
        cards: int | None = None,
        max_batch_tokens: int | None = None,
        max_adapter_bytes: int | None = None,
        stuck_seconds: float = STUCK_SECONDS,
        calibrate_again: bool = False,
        latent_cache: Reuse | None = None,
        on_batch: Callable[[BatchReport], None] | None = None,
    ) -> None:
        """Look up the model's card; `start` loads the model, by `load`. Raises ModelUnavailable if there is none.

        The backend is torch, unless another is chosen. `profile` names a memory profile, or is
        "auto"; without it KILN_PROFILE does. The transformer is split over `cards`, or KILN_CARDS, or not.
        `on_batch` runs after each batch, in the thread that ran it. Without `max_batch_tokens` the cap is the knee of
        the step times measured on this device. A batch counts as stuck after `stuck_seconds`, or later if it is
        expected to take long.
        """
        self.card = model if isinstance(model, ModelCard) else catalog.card(model)
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.warm = False
        self._load = load
        self._choice = backend or Choice()
        self._profile, self._cards = profile, cards
        self._latent_cache = latent_cache
        self._on_batch = on_batch
        self._max_batch_tokens = max_batch_tokens
        self._calibrate_again = calibrate_again
        self._device_lock = DeviceLock()
        self._stuck = False
        self._stuck_seconds = stuck_seconds
        self._watchdog = Watchdog(self._device_lock.running, self._on_stuck, min(1.0, stuck_seconds / 4))
        self._stepped_at = 0.0
        self._changed = threading.Condition()
        self._max_adapter_bytes = max_adapter_bytes or MAX_ADAPTER_BYTES.get(self.device.type, 1024**3)
        # requests whose adapters are being loaded, and those to take out: canceled, or failed with an error
        self._fetching: set[Request] = set()
        self._leaving: list[tuple[Request, BaseException | None]] = []
        self._stopping = False
        self._reason: InferenceError = EngineStopped("the engine stopped")
        self._end_backend: Callable[[], None] = lambda: None
        # set by `start`
        self.step_times: StepTimes
        self._scheduler: Scheduler
        self._runner: Runner
        self._recovery: Recovery
        self._bank: Bank
        self._colours: previews.Colours | None = None
        self._threads: list[threading.Thread] = []
        self._serving = 0

    def start(self) -> None:
        """Load the model, warm it up, and begin to serve; return when warm."""
        assert not self._threads, "an engine starts once"
        by_plan = self._choice.name != "torch"
        profile = memory_profiles.choose(self._profile, self.card, self.device, self._cards, by_plan=by_plan)
        model = self._load(self.card, self.device, profile)
        backend = choice.load(self._choice, model, self.card, profile)
        self._end_backend = backend.end
        self._runner = Runner(model, backend, self._latent_cache)
        self._colours = previews.load(self.card.path, self.device)
        self._bank = Bank(backend.layers, self._max_adapter_bytes)
        self._recovery = Recovery(
            self._runner,
            self.card,
            self._device_lock,
            limit=self._limit,
            enter=self._enter_batch,
            leave=self._leave_batch,
            free=self._free_memory,
            pause=self._pause,
        )
        warm_up(self._runner, self.card)
        label = f"{self._choice.label} {profile.label}".strip()
        self.step_times = calibration.step_times(
            self.card, self.device, self._runner, label, again=self._calibrate_again
        )
        cap = self._max_batch_tokens or calibration.max_batch_tokens(self.card, self.step_times)
        self._scheduler = Scheduler(cap)
        with self._changed:
            self.warm = not self._stopping
            for next_batch in (self._next_step, self._next_codec):
                self._threads.append(threading.Thread(target=self._serve, args=(next_batch,), daemon=True))
                self._serving += 1
                self._threads[-1].start()
        self._watchdog.start()

    def stop(self) -> None:
        """Stop once the running batches have ended, without waiting for a stuck one. Safe to call twice.

        Futures that are still pending raise EngineStopped.
        """
        with self._changed:
            self._stopping = True
            self.warm = False
            self._changed.notify_all()
        for thread in self._threads:
            while thread.is_alive() and not self._stuck:
                thread.join(0.1)
        self._watchdog.stop()
        if not self._stuck:
            end, self._end_backend = self._end_backend, lambda: None
            end()

    def running(self) -> tuple[RunningBatch, ...]:
        """Return what is running now: a step, codec work, both, or nothing."""
        return self._device_lock.running()

    @property
    def max_batch_tokens(self) -> int:
        """The cap on image tokens per forward; halved each time memory runs out."""
        return self._scheduler.max_batch_tokens

    def submit(self, request: Request) -> Future[Picture]:
        """Queue a new request. Raises InvalidRequest if a value is not accepted, EngineStopped if not running.

        A request with adapters joins the queue once they are on the device; its future raises AdapterUnavailable if
        they cannot be loaded.
        """
        catalog.validate(request, self.card)
        request.state.condition_grids = pictures.condition_grids(request, self.card)
        request.state.sampler = recipes.combine(request.adapters).sampler
        with self._changed:
            if not self.warm:
                raise EngineStopped("the engine is not running")
            request.ticket.submitted_at = time.monotonic()
            if not request.ticket.future.set_running_or_notify_cancel():
                return request.ticket.future
            if request.adapters:
                self._fetching.add(request)
            else:
                self._scheduler.add(request)
                self._changed.notify_all()
        if request.adapters:
            # outside the lock, since it looks at files and steps must not wait for that
            self._fetch(request)
        return request.ticket.future

    def cancel(self, request: Request) -> None:
        """Take a request out at the next step boundary; its future raises Canceled. No-op if it has all its steps."""
        with self._changed:
            if request.ticket.future.running():
                self._leaving.append((request, None))
                self._changed.notify_all()

    def preview(self, request: Request) -> Image.Image | None:
        """Return a preview of the last step's predicted x0, at an eighth of the width and height. From any thread.

        An outpainting shows its whole canvas, a redraw its enlarged box. None before the first step, or if the model
        has no previews (see `inference.previews`).
        """
        if self._colours is None or (latents := request.state.x0) is None:
            return None
        with torch.inference_mode():
            return self._colours.draw(latents, request.grid)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _fetch(self, request: Request) -> None:
        request.ticket.loan = loan = self._bank.acquire(request.adapters)
        request.ticket.future.add_done_callback(lambda _: self._bank.release(loan))
        loan.ready.add_done_callback(lambda _: self._fetched(request, loan))

    def _fetched(self, request: Request, loan: Loan) -> None:
        """Queue a request whose adapters are loaded, or fail it if they cannot be; usually in the bank's thread."""
        with self._changed:
            if not request.ticket.future.running():
                return
            if error := loan.ready.exception():
                self._leaving.append((request, error))
            else:
                self._fetching.discard(request)
                self._scheduler.add(request)
            self._changed.notify_all()

    def _serve(self, next_batch: Callable[[], Batch | None]) -> None:
        try:
            works = True
            while works and (batch := next_batch()):
                outcome = self._recovery.run(batch)
                works = self._finish(batch, outcome)
        except Stopped:
            pass
        except Exception as error:
            log.exception("the engine's loop broke")
            self._reason = EngineFault(f"the engine broke: {error!r}")
        finally:
            self._leave_loop()

    def _next_step(self) -> Batch | None:
        """Wait for the next step and meanwhile fail the requests that leave, none of which is in a step now.

        None if the engine stops.
        """
        while True:
            with self._changed:
                batch = None
                while not (self._stopping or self._leaving or (batch := self._scheduler.next_step())):
                    self._changed.wait()
                if self._stopping or batch:
                    return batch
                leaving, self._leaving = self._leaving, []
            for request, error in leaving:
                if error:
                    self._fail(request, error)
                elif request.phase is not Phase.DECODE:  # else its picture is all but finished
                    self._fail(request, Canceled(request.steps_run))

    def _next_codec(self) -> Batch | None:
        with self._changed:
            while not self._stopping:
                if batch := self._scheduler.next_codec():
                    return batch
                self._changed.wait()
        return None

    def _finish(self, batch: Batch, outcome: Outcome) -> bool:
        """Deliver a batch's outcome to its requests and return it to the scheduler; False if the engine is broken.

        A broken engine is marked as stopping before anything else, so that no further batch begins.
        """
        with self._changed:
            self._stopping = self._stopping or not outcome.works
            if outcome.too_large:
                self._scheduler.max_batch_tokens = _half(batch)
        for request, error in outcome.failed.items():
            self._fail(request, error)
        pending = [request for request in batch.requests if not request.ticket.future.done()]
        for request in pending:
            if batch.phase is Phase.DENOISE and request.on_step and not outcome.too_large:
                _call(request.on_step, request)
        with self._changed:
            self._scheduler.advance(batch)
            self._changed.notify_all()
        for request in pending:
            if batch.phase is Phase.DECODE:
                # the watchdog may just have failed it
                with suppress(InvalidStateError):
                    request.ticket.future.set_result(request.picture())
        return outcome.works

    def _leave_loop(self) -> None:
        """Leave one of the two loops and stop the other; the last one out fails whatever is left."""
        with self._changed:
            self.warm = False
            self._stopping = True
            self._serving -= 1
            is_last = not self._serving
            self._changed.notify_all()
        if is_last:
            self._abandon(self._reason)
            self._bank.close()

    def _limit(self, batch: Batch) -> float:
        """Return the seconds after which a batch counts as stuck."""
        return max(self._stuck_seconds, STUCK_FACTOR * self.step_times.at(batch.image_tokens))

    def _enter_batch(self, batch: Batch, running: RunningBatch) -> None:
        if self._stopping:
            raise Stopped
        for request in batch.requests:
            request.ticket.started_at = request.ticket.started_at or running.since

    def _leave_batch(self, batch: Batch, since: float, seconds: float) -> None:
        waited = 0.0
        if batch.phase is Phase.DENOISE:
            # counts only if one of its rows had begun before
            waited = since - self._stepped_at if any(request.steps_run > 1 for request in batch.requests) else 0.0
            self._stepped_at = time.monotonic()
        if self._on_batch:
            _call(self._on_batch, BatchReport(batch.phase, len(batch.requests), batch.image_tokens, seconds, waited))

    def _free_memory(self) -> None:
        self._bank.evict_unpinned()
        memory.free()

    def _pause(self, seconds: float) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._stopping, seconds)

    def _on_stuck(self, running: RunningBatch) -> None:
        """Fail the requests of a stuck batch, give all others back, and take no more. Called by the watchdog."""
        log.critical("the engine is stuck: %s", running)
        with self._changed:
            self._stuck = self._stopping = True
            self._changed.notify_all()
        for request in running.batch.requests:
            self._fail(request, EngineFault(f"the engine was stuck: {running}"))
        self._abandon(EngineStopped("the engine was stuck"))

    def _fail(self, request: Request, error: BaseException) -> None:
        with self._changed:
            self._scheduler.discard(request)
            self._fetching.discard(request)
            self._changed.notify_all()  # another request may be due now
        # outside the lock: whoever waits for the future may call the engine right away
        with suppress(InvalidStateError):
            request.ticket.future.set_exception(error)

    def _abandon(self, reason: InferenceError) -> None:
        with self._changed:
            self.warm = False
            pending = [*self._scheduler, *self._fetching]
        for request in pending:
            self._fail(request, reason)


def _call(callback: Callable[[Argument], object], argument: Argument) -> None:
    """Call a caller's callback; if it raises, log that and go on."""
    try:
        callback(argument)
    except Exception:
        log.exception("a callback raised")


def _half(batch: Batch) -> int:
    """Return the new cap after a batch ran out of memory: half its tokens, but never less than one of its rows."""
    cap = max(batch.requests[0].image_tokens, batch.image_tokens // 2)
    log.warning("out of memory with %d image tokens; from now on a forward has at most %d", batch.image_tokens, cap)
    return cap
