"""The engine: takes requests, hands out futures, and runs two threads that do schedule → run → finish for ever, one
for denoising steps and one for pieces, the work on pictures and prompts beside them.

Requests join and leave between denoising steps. What runs next is the scheduler's business, how it runs the
runner's; no queue and no arithmetic here.
"""

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import torch
from PIL import Image

from inference import calibration, pictures, previews
from inference.adapters.bank import Bank, Loan
from inference.backends.pytorch import TorchBackend
from inference.calibration import StepTimes
from inference.errors import BrokenPicture, Canceled, EngineFault, EngineStopped, InferenceError
from inference.latent_cache.reuse import Reuse
from inference.models import catalog, qwen_image
from inference.models.catalog import ModelCard
from inference.models.qwen_image import QwenImage
from inference.request import Phase, Picture, Request
from inference.runner import Runner, warm_up
from inference.scheduler import Batch, Scheduler
from inference.watchdog import STUCK_FACTOR, STUCK_SECONDS, Device, Doing, Watchdog

log = logging.getLogger(__name__)

Argument = TypeVar("Argument")
Load = Callable[[ModelCard, torch.device], QwenImage]

# bytes of adapters that stay on the device; Qwen-Image's attention at rank 16 takes 47 MB
MAX_ADAPTER_BYTES = {"cuda": 4 * 1024**3, "cpu": 1024**3}


@dataclass(frozen=True)
class BatchReport:
    """One batch that ran: its phase, requests in it, image tokens of its forward, seconds it took.

    `waited`: for how many seconds a step of rows that had begun waited since the last one; 0 for any other batch.
    """

    phase: str
    rows: int
    image_tokens: int
    seconds: float
    waited: float = 0.0


class Engine:
    """One model on one device; use as a context manager or with `start` and `stop`."""

    def __init__(
        self,
        model: str | Path | ModelCard | None = None,
        *,
        load: Load = qwen_image.load,
        device: str | None = None,
        max_batch_tokens: int | None = None,
        max_adapter_bytes: int | None = None,
        stuck_seconds: float = STUCK_SECONDS,
        calibrate_again: bool = False,
        latent_cache: Reuse | None = None,
        on_batch: Callable[[BatchReport], None] | None = None,
    ) -> None:
        """`load` brings the model into memory. `on_batch` runs after a batch, in the thread that ran it. Raises
        ModelUnavailable for no such model.

        Without `max_batch_tokens` the cap is the knee of the step times on this device. A batch is stuck after
        `stuck_seconds`, or later where it is known to take long.
        """
        self.card = model if isinstance(model, ModelCard) else catalog.card(model)
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.warm = False
        self._load = load
        self._latent_cache = latent_cache
        self._on_batch = on_batch
        self._max_batch_tokens = max_batch_tokens
        self._calibrate_again = calibrate_again
        self._scheduler = Scheduler(max_batch_tokens or 1)
        self._rooms = Device()
        self._stuck = False
        self._stuck_seconds = stuck_seconds
        self._watchdog = Watchdog(self._rooms.doing, self._bark, min(1.0, stuck_seconds / 4))
        self._stepped_at = 0.0
        self._changed = threading.Condition()
        self._max_adapter_bytes = max_adapter_bytes or MAX_ADAPTER_BYTES.get(self.device.type, 1024**3)
        # requests whose adapters are on their way, and those that go: canceled, or for an error
        self._fetching: set[Request] = set()
        self._leaving: list[tuple[Request, BaseException | None]] = []
        self._stopping = False
        self._reason: InferenceError = EngineStopped("the engine stopped")
        self.step_times: StepTimes
        self._runner: Runner
        self._colours: previews.Colours | None = None
        self._bank: Bank
        self._threads: list[threading.Thread] = []
        self._serving = 0

    def start(self) -> None:
        """Load the model, run it once, and begin to serve; returns when warm."""
        assert not self._threads, "an engine starts once"
        model = self._load(self.card, self.device)
        backend = TorchBackend(model.transformer)
        self._runner = Runner(model, backend, self._latent_cache)
        self._colours = previews.load(self.card.path, self.device)
        self._bank = Bank(backend.layers, self._max_adapter_bytes)
        warm_up(self._runner, self.card)
        self.step_times = calibration.step_times(self.card, self.device, self._runner, again=self._calibrate_again)
        if self._max_batch_tokens is None:
            self._scheduler = Scheduler(calibration.max_batch_tokens(self.card, self.step_times))
        with self._changed:
            self.warm = not self._stopping
            for wait in (self._wait_for_step, self._wait_for_piece):
                self._threads.append(threading.Thread(target=self._serve, args=(wait,), daemon=True))
                self._serving += 1
                self._threads[-1].start()
        self._watchdog.start()

    def stop(self) -> None:
        """End after the batches that run, unless one is stuck; futures still pending raise EngineStopped. Safe to call
        twice.
        """
        with self._changed:
            self._stopping = True
            self.warm = False
            self._changed.notify_all()
        for thread in self._threads:
            while thread.is_alive() and not self._stuck:
                thread.join(0.1)
        self._watchdog.stop()

    def doing(self) -> tuple[Doing, ...]:
        """What runs at this moment: a step, a piece, both, or nothing."""
        return self._rooms.doing()

    @property
    def max_batch_tokens(self) -> int:
        """The cap of image tokens a forward; half as much after each time that memory ran out."""
        return self._scheduler.max_batch_tokens

    def submit(self, request: Request) -> Future[Picture]:
        """Queue a new request. Raises InvalidRequest for a bad value, EngineStopped when not running.

        One with adapters joins the queue when they are on the device; where they cannot be had, its future raises
        AdapterUnavailable.
        """
        catalog.validate(request, self.card)
        request.condition_grids = pictures.condition_grids(request, self.card)
        with self._changed:
            if not self.warm:
                raise EngineStopped("the engine is not running")
            request.submitted_at = time.monotonic()
            if not request.future.set_running_or_notify_cancel():
                return request.future
            if request.adapters:
                self._fetching.add(request)
            else:
                self._scheduler.add(request)
                self._changed.notify_all()
        if request.adapters:
            # looks at files, so no step waits for the lock meanwhile
            self._fetch(request)
        return request.future

    def cancel(self, request: Request) -> None:
        """Take a request out at the next step boundary: its future raises Canceled. No-op when it is done."""
        with self._changed:
            if request.future.running():
                self._leaving.append((request, None))
                self._changed.notify_all()

    def preview(self, request: Request) -> Image.Image | None:
        """What a picture will look like as far as its last step foresaw it, at an eighth of width and height; the
        canvas of an outpainting and the enlarged box of a redraw. From any thread.

        None before the first step, and where the model has no previews (see `inference.previews`).
        """
        if self._colours is None or (latents := request.outlook) is None:
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
        request.loan = loan = self._bank.acquire(request.adapters)
        request.future.add_done_callback(lambda _: self._bank.release(loan))
        loan.ready.add_done_callback(lambda _: self._fetched(request, loan))

    def _fetched(self, request: Request, loan: Loan) -> None:
        """A request's adapters are there, or cannot be had; in the bank's thread, mostly."""
        with self._changed:
            if not request.future.running():
                return
            if error := loan.ready.exception():
                self._leaving.append((request, error))
            else:
                self._fetching.discard(request)
                self._scheduler.add(request)
            self._changed.notify_all()

    def _serve(self, wait_for_batch: Callable[[], Batch | None]) -> None:
        try:
            while batch := wait_for_batch():
                faults = self._run(batch)
                if faults is None or not self._settle(batch, faults):
                    break
        except Exception as error:
            log.exception("the engine's loop broke")
            self._reason = EngineFault(f"the engine broke: {error!r}")
        finally:
            with self._changed:
                self.warm = False
                self._stopping = True
                self._serving -= 1
                is_last = not self._serving
                self._changed.notify_all()
            if is_last:
                self._abandon(self._reason)
                self._bank.close()

    def _wait_for_step(self) -> Batch | None:
        """Let go of requests that leave, none of which is in a step now, until there is a step; None: stop."""
        while True:
            with self._changed:
                batch = None
                while not (self._stopping or self._leaving or (batch := self._scheduler.next_step())):
                    self._changed.wait()
                if self._stopping or batch:
                    return batch
                leaving, self._leaving = self._leaving, []
            for request, error in leaving:
                self._fail(request, error or Canceled(request.steps_run))

    def _wait_for_piece(self) -> Batch | None:
        with self._changed:
            while not self._stopping:
                if batch := self._scheduler.next_piece():
                    return batch
                self._changed.wait()
        return None

    def _run(self, batch: Batch, *, alone: bool = False) -> dict[Request, EngineFault] | None:
        """Run a batch and answer which of its rows raised; where several might, each runs again alone. None: the engine
        was stopped before there was room.

        A row whose numbers broke fails alone. Where memory runs out, the batch has the device alone for another try;
        where it does again, several rows are left as they were, for smaller batches.
        """
        with self._room(batch, alone=alone or any(request.deterministic for request in batch.requests)) as doing:
            if self._stopping:
                return None
            waited = self._waited(batch, doing.since)
            for request in batch.requests:
                request.started_at = request.started_at or doing.since
            error = self._attempt(batch)
            seconds = doing.seconds
        if error and _out_of_memory(error):
            if not alone:
                self._free_memory()
                return self._run(batch, alone=True)
            if len(batch.requests) > 1:
                self._halve(batch)
                return {}
        if error and len(batch.requests) > 1:
            log.warning("a batch of %d raised %r; running its rows alone", len(batch.requests), error)
            faults: dict[Request, EngineFault] = {}
            for request in batch.requests:
                faults |= self._run(Batch(batch.phase, (request,))) or {}
            return faults
        self._report(batch, seconds, waited)
        if not error:
            return {}
        log.error("a request raised in %s", batch.phase, exc_info=error)
        fault = EngineFault(f"{batch.phase} raised {error!r}")
        fault.__cause__ = error
        return {batch.requests[0]: fault}

    def _attempt(self, batch: Batch) -> Exception | None:
        """Run a batch, and answer what it raised that was not raised on purpose."""
        try:
            self._runner.run(batch)
        except InferenceError as error:
            broken = error.requests if isinstance(error, BrokenPicture) else ()
            for request in broken or batch.requests:
                self._fail(request, error)
        except Exception as error:  # noqa: BLE001 - the caller's to judge
            if _out_of_memory(error):
                error.__traceback__ = None  # its frames hold what the forward had in hand
            return error
        return None

    def _room(self, batch: Batch, *, alone: bool) -> AbstractContextManager[Doing]:
        limit = max(self._stuck_seconds, STUCK_FACTOR * self.step_times.at(batch.image_tokens))
        return self._rooms.room(batch, limit, alone=alone)

    def _halve(self, batch: Batch) -> None:
        row = batch.requests[0].image_tokens
        with self._changed:
            self._scheduler.max_batch_tokens = cap = max(row, batch.image_tokens // 2)
        log.warning("no memory for %d image tokens; from now on a forward has at most %d", batch.image_tokens, cap)
        self._free_memory()

    def _free_memory(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _settle(self, batch: Batch, faults: dict[Request, EngineFault]) -> bool:
        """End a batch that ran. False where the engine works no more: nobody else may have begun by then."""
        works = len(faults) < len(batch.requests) or self._still_works(batch)
        with self._changed:
            self._stopping = self._stopping or not works
        for request, fault in faults.items():
            self._fail(request, fault)
        self._finish(batch)
        return works

    def _still_works(self, batch: Batch) -> bool:
        """After a batch of which every row raised: whether the engine can make a picture that it made before."""
        try:
            with self._room(batch, alone=True):
                warm_up(self._runner, self.card)
        except Exception:
            log.exception("the engine cannot make its smallest picture any more, and stops")
            return False
        return True

    def _bark(self, doing: Doing) -> None:
        """The watchdog's: fail the requests of a batch that is stuck, give back all others, and take no more."""
        log.critical("the engine is stuck: %s", doing)
        with self._changed:
            self._stuck = self._stopping = True
            self._changed.notify_all()
        for request in doing.batch.requests:
            self._fail(request, EngineFault(f"the engine was stuck: {doing}"))
        self._abandon(EngineStopped("the engine was stuck"))

    def _waited(self, batch: Batch, begun: float) -> float:
        begun_before = batch.phase is Phase.DENOISE and any(request.steps_run for request in batch.requests)
        return begun - self._stepped_at if begun_before else 0.0

    def _finish(self, batch: Batch) -> None:
        pending = [request for request in batch.requests if not request.future.done()]
        for request in pending:
            if batch.phase is Phase.DENOISE and request.on_step:
                _call(request.on_step, request)
        with self._changed:
            self._scheduler.advance(batch)
            self._changed.notify_all()
        for request in pending:
            if batch.phase is Phase.DECODE:
                # it may have been failed just now
                with suppress(InvalidStateError):
                    request.future.set_result(request.picture())

    def _report(self, batch: Batch, seconds: float, waited: float) -> None:
        if batch.phase is Phase.DENOISE:
            self._stepped_at = time.monotonic()
        if self._on_batch:
            _call(self._on_batch, BatchReport(batch.phase, len(batch.requests), batch.image_tokens, seconds, waited))

    def _fail(self, request: Request, error: BaseException) -> None:
        with self._changed:
            self._scheduler.discard(request)
            self._fetching.discard(request)
            self._changed.notify_all()  # another one may be due now
        # outside the lock: whoever waits for the future may call the engine at once
        with suppress(InvalidStateError):
            request.future.set_exception(error)

    def _abandon(self, reason: InferenceError) -> None:
        with self._changed:
            self.warm = False
            pending = [*self._scheduler, *self._fetching]
        for request in pending:
            self._fail(request, reason)


def _call(callback: Callable[[Argument], object], argument: Argument) -> None:
    """Call what was given from outside; what it raises is logged and stops nothing."""
    try:
        callback(argument)
    except Exception:
        log.exception("a callback raised")


def _out_of_memory(error: Exception) -> bool:
    """Also on a CPU, where it is no error of its own."""
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)
