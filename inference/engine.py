"""The engine: takes requests, hands out futures, and runs one thread that does schedule → run → finish for
ever.

Requests join and leave between denoising steps. What runs next is the scheduler's business, how it runs the
runner's; no queue and no arithmetic here.
"""

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import torch
from PIL import Image

from inference import pictures, previews
from inference.adapters.bank import Bank, Loan
from inference.backends.pytorch import TorchBackend
from inference.errors import Canceled, EngineFault, EngineStopped, InferenceError
from inference.models import catalog, qwen_image
from inference.request import Operation, Phase, Picture, Request
from inference.runner import Runner
from inference.scheduler import Batch, Scheduler

log = logging.getLogger(__name__)

Argument = TypeVar("Argument")

# image tokens a forward, above which a bigger batch brought no more pictures a second (docs: bench/engine.py)
MAX_BATCH_TOKENS = {"cuda": 8192, "cpu": 2048}
# bytes of adapters that stay on the device; Qwen-Image's attention at rank 16 takes 47 MB
MAX_ADAPTER_BYTES = {"cuda": 4 * 1024**3, "cpu": 1024**3}


@dataclass(frozen=True)
class BatchReport:
    """One batch that ran: its phase, requests in it, image tokens of its forward, seconds it took."""

    phase: str
    rows: int
    image_tokens: int
    seconds: float


class Engine:
    """One model on one device; use as a context manager or with `start` and `stop`."""

    def __init__(
        self,
        model: str | Path | None = None,
        *,
        device: str | None = None,
        max_batch_tokens: int | None = None,
        max_adapter_bytes: int | None = None,
        on_batch: Callable[[BatchReport], None] | None = None,
    ) -> None:
        """`on_batch` runs in the engine's thread after a batch. Raises ModelUnavailable for no such model."""
        self.card = catalog.card(model)
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.warm = False
        self._on_batch = on_batch
        self._scheduler = Scheduler(max_batch_tokens or MAX_BATCH_TOKENS.get(self.device.type, 2048))
        self._changed = threading.Condition()
        self._max_adapter_bytes = max_adapter_bytes or MAX_ADAPTER_BYTES.get(self.device.type, 1024**3)
        # requests whose adapters are on their way, and those that go: canceled, or for an error
        self._fetching: set[Request] = set()
        self._leaving: list[tuple[Request, BaseException | None]] = []
        self._stopping = False
        self._runner: Runner
        self._colours: previews.Colours | None = None
        self._bank: Bank
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Load the model, run it once, and begin to serve; returns when warm."""
        assert self._thread is None, "an engine starts once"
        model = qwen_image.load(self.card, self.device)
        backend = TorchBackend(model.transformer)
        self._runner = Runner(model, backend)
        self._colours = previews.load(self.card.path, self.device)
        self._bank = Bank(backend.layers, self._max_adapter_bytes)
        self._warm_up()
        with self._changed:
            self.warm = not self._stopping
            self._thread = threading.Thread(target=self._serve, name="kiln-engine", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """End after the batch that runs; futures still pending raise EngineStopped. Safe to call twice."""
        with self._changed:
            self._stopping = True
            self.warm = False
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()

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
                self._changed.notify()
        if request.adapters:
            # looks at files, so no step waits for the lock meanwhile
            self._fetch(request)
        return request.future

    def cancel(self, request: Request) -> None:
        """Take a request out at the next step boundary: its future raises Canceled. No-op when it is done."""
        with self._changed:
            if request.future.running():
                self._leaving.append((request, None))
                self._changed.notify()

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
            self._changed.notify()

    def _serve(self) -> None:
        reason: InferenceError = EngineStopped("the engine stopped")
        try:
            while self._step():
                pass
        except Exception as error:
            log.exception("the engine's loop broke")
            reason = EngineFault(f"the engine broke: {error!r}")
        finally:
            self._abandon(reason)
            self._bank.close()

    def _step(self) -> bool:
        batch = self._next_batch()
        if batch is None:
            return False
        self._run(batch)
        self._finish(batch)
        return True

    def _next_batch(self) -> Batch | None:
        """Wait for work, let go of requests that leave, and schedule; None when the engine is to stop."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._stopping or self._leaving or self._scheduler)
                if self._stopping:
                    return None
                leaving, self._leaving = self._leaving, []
            for request, error in leaving:
                self._fail(request, error or Canceled(request.step_index))
            with self._changed:
                if batch := self._scheduler.schedule():
                    return batch

    def _run(self, batch: Batch) -> None:
        """Run a batch; where several rows raise, each runs again alone, so that a bad one fails alone."""
        begun = time.monotonic()
        try:
            for request in batch.requests:
                request.started_at = request.started_at or begun
            self._runner.run(batch)
        except InferenceError as error:
            for request in batch.requests:
                self._fail(request, error)
        except Exception as error:
            if len(batch.requests) > 1:
                log.warning("a batch of %d raised %r; running its rows alone", len(batch.requests), error)
                for request in batch.requests:
                    self._run(Batch(batch.phase, (request,)))
                return
            log.exception("a request raised")
            fault = EngineFault(f"{batch.phase} raised {error!r}")
            fault.__cause__ = error
            self._fail(batch.requests[0], fault)
        self._report(batch, time.monotonic() - begun)

    def _finish(self, batch: Batch) -> None:
        with self._changed:
            self._scheduler.advance(batch)
        for request in batch.requests:
            if request.future.done():
                continue
            if batch.phase is Phase.DECODE:
                request.future.set_result(request.picture())
            elif batch.phase is Phase.DENOISE and request.on_step:
                _call(request.on_step, request)

    def _report(self, batch: Batch, seconds: float) -> None:
        if self._on_batch:
            _call(self._on_batch, BatchReport(batch.phase, len(batch.requests), batch.image_tokens, seconds))

    def _fail(self, request: Request, error: BaseException) -> None:
        with self._changed:
            self._scheduler.discard(request)
            self._fetching.discard(request)
        # outside the lock: whoever waits for the future may call the engine at once
        if not request.future.done():
            request.future.set_exception(error)

    def _abandon(self, reason: InferenceError) -> None:
        with self._changed:
            self.warm = False
            pending = [*self._scheduler, *self._fetching]
        for request in pending:
            self._fail(request, reason)

    def _warm_up(self) -> None:
        card, image = self.card, Image.new("RGB", (self.card.min_side, self.card.min_side))
        for operation in card.operations:
            request = Request(
                "",
                width=card.min_side,
                height=card.min_side,
                steps=1,
                guidance_scale=card.default_guidance_scale,
                seed=0,
                operation=operation,
                images=() if operation == Operation.GENERATE else (image,),
                box=(0, 0, *image.size),
            )
            request.condition_grids = pictures.condition_grids(request, card)
            while request.image is None:
                self._runner.run(Batch(request.phase, (request,)))


def _call(callback: Callable[[Argument], object], argument: Argument) -> None:
    """Call what was given from outside; what it raises is logged and stops nothing."""
    try:
        callback(argument)
    except Exception:
        log.exception("a callback raised")
