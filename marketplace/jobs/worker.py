"""The worker, which connects database and engine: one for each process, with a thread for each job and one engine.

A heartbeat every second extends the leases of the running jobs, writes their progress and learns which ones the
customer canceled. The engine knows nothing of jobs, and the database knows nothing of tensors.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

from django.conf import settings
from django.db import connection
from django.db.models.functions import Now

from billing.prices import pricing
from inference.backends.choice import Choice
from inference.engine import Engine
from inference.errors import (
    AdapterUnavailable,
    BrokenPicture,
    Canceled,
    EngineFault,
    EngineStopped,
    InferenceError,
    InvalidRequest,
)
from inference.latent_cache.cache import LatentCache
from inference.latent_cache.shadow import Shadows
from inference.latent_cache.stores import Store
from inference.models import catalog
from inference.request import Phase, Request
from inference.state import Picture
from marketplace.adapters import storage as adapter_files
from marketplace.adapters import uses
from marketplace.adapters.copies import Copies, Unavailable
from marketplace.jobs import inputs, lifecycle, metrics, outbox, reuse, storage
from marketplace.jobs.broadcast import Broadcast
from marketplace.jobs.errors import LeaseLost
from marketplace.jobs.lifecycle import Progress, Result
from marketplace.jobs.models import Job
from marketplace.jobs.models import Worker as WorkerRow

if TYPE_CHECKING:
    from PIL import Image as Pixels

HEARTBEAT_SECONDS = 1.0

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Task:
    """A claimed job that is running: its requests, their futures, and whether its lease was lost."""

    job: Job
    requests: list[Request] = field(default_factory=list)
    futures: list[Future[Picture]] = field(default_factory=list)
    lost: bool = False

    @property
    def progress(self) -> Progress:
        step = sum(request.state.step_index for request in self.requests)
        outcomes = [_if_canceled(request) for request in self.requests]
        cost = pricing.charge_canceled(pricing.Quote.from_json(self.job.quote), outcomes)
        return Progress(self.job.attempt, step, cost)


def engine_from_settings() -> tuple[Engine, tuple[LatentCache, Store] | None]:
    """Make the engine that the settings describe, not started yet, and the latent cache that it uses."""
    card = catalog.card(settings.MODEL)
    latent_cache = reuse.latent_cache(card)
    backend = Choice(settings.BACKEND, Path(settings.PLANS), settings.PRECISION)
    engine = Engine(
        card,
        backend=backend,
        profile=settings.MEMORY_PROFILE,
        cards=settings.CARDS,
        latent_cache=latent_cache and latent_cache[0],
        on_batch=metrics.batch,
    )
    return engine, latent_cache


class Worker:
    """A worker process's part in the work: call `start`, then `fire` from many threads, then `drain`."""

    def __init__(self, engine: Engine, latent_cache: tuple[LatentCache, Store] | None = None) -> None:
        """Serve with this engine, which takes latents from that cache."""
        self.name = f"{socket.gethostname()}-{os.getpid()}-{uuid4().hex[:6]}"
        self.engine = engine
        self.card = engine.card
        self.reuse = latent_cache
        budget = settings.ADAPTERS_CACHE_MB * 1024**2
        self.copies = Copies(Path(settings.ADAPTERS_CACHE), budget, adapter_files.fetch)
        self.tasks: dict[UUID, Task] = {}
        self.lock = threading.Lock()
        self.leaving = threading.Event()
        self.stopped = threading.Event()
        self.broadcast = Broadcast(self._running, engine.preview)

    def start(self) -> None:
        """Load and warm the model, and start the heartbeat; return when jobs can be taken."""
        self.engine.start()
        if self.reuse:
            Shadows(*self.reuse, self.engine.submit, settings.SHADOW_PERCENT / 100)
        self._try_heartbeat()
        threading.Thread(target=self._keep_beating, name="heartbeat", daemon=True).start()
        self.broadcast.start()
        logger.info("%s is warm: %s %s", self.name, self.card.name, self.card.revision)

    def fire(self, job_id: UUID, sent: datetime | None = None) -> None:
        """Run one job from its claim to its end. Every outcome is written to the database; none is raised.

        The message names job `job_id` and when it was sent; `claim` decides which job's turn it is.
        """
        if self.leaving.is_set() or not self.engine.warm:
            lifecycle.send_again([job_id])
            outbox.wake()
            return
        job = lifecycle.claim(job_id, self.name, sent)
        if job is None:
            return
        task = Task(job)
        with self.lock:
            self.tasks[job.id] = task
        try:
            if not self._reuse_pictures(job):
                self._run(task)
        except LeaseLost:
            logger.warning("job %s is no longer this worker's; its result is discarded", job.id)
        finally:
            with self.lock:
                if self.tasks.get(job.id) is task:  # after a retry another thread may have it
                    del self.tasks[job.id]

    def drain(self, seconds: float) -> None:
        """Take no more jobs, let the running ones finish for this many seconds, and give back the rest."""
        self.leaving.set()
        deadline = time.monotonic() + seconds
        while self.tasks and time.monotonic() < deadline:
            time.sleep(0.1)
        self.engine.stop()
        if self.reuse:
            self.reuse[0].close()
        self.stopped.set()
        self.broadcast.stop()
        WorkerRow.objects.filter(name=self.name).delete()
        connection.close()

    def _reuse_pictures(self, job: Job) -> bool:
        """Deliver stored pictures of the same order without the engine; return whether there were any."""
        began = time.monotonic()
        if not (found := reuse.stored_pictures(job, self.card.revision)):
            return False
        images, key = found
        outcome = pricing.ImageOutcome(True, steps_run=0, steps_skipped=job.quote["steps"])
        results = [Result(outcome, image, "exact", 1.0) for image in images]
        self._complete(job, results, {"store_seconds": round(time.monotonic() - began, 3)}, key)
        return True

    def _run(self, task: Task) -> None:
        began = time.monotonic()
        try:
            images, mask = inputs.load(task.job, self.card)
            with self.copies.borrowed(uses.files(task.job.order)) as paths:
                self._draw(task, images, mask, paths, began)
        except EngineStopped:
            lifecycle.give_back(task.job)
        except (InvalidRequest, FileNotFoundError, Unavailable) as error:
            self._cancel(task)
            self._fail(task.job, error)

    def _draw(
        self, task: Task, images: tuple[Pixels.Image, ...], mask: Pixels.Image | None, paths: list[str], began: float
    ) -> None:
        made = (request_for(task.job, index, images, mask, paths) for index in range(task.job.n))
        task.requests = [replace(request, on_step=self.broadcast.note) for request in made]
        task.futures = [self.engine.submit(request) for request in task.requests]
        connection.close()  # back to the pool while the engine works
        left = wait(task.futures, timeout=settings.JOB_SECONDS).not_done
        if left:
            self._cancel(task)
            lifecycle.fail(task.job, "timed_out", "The job took too long.", retry=False)
            return
        self._conclude(task, time.monotonic() - began)

    def _conclude(self, task: Task, seconds: float) -> None:
        """Write the job's outcome: pictures, also those of a canceled job, or a failure."""
        errors = [error for future in task.futures if (error := future.exception())]
        if task.lost:
            raise LeaseLost
        if any(isinstance(error, EngineStopped) for error in errors):
            # the engine may have stopped because of a fault in one of this job's pictures
            if faults := [error for error in errors if isinstance(error, EngineFault)]:
                self._fail(task.job, faults[0])
            else:
                lifecycle.give_back(task.job)
            return
        canceled = any(isinstance(error, Canceled) for error in errors)
        if len(errors) == len(task.futures) and not canceled:
            self._fail(task.job, errors[0])
        else:
            self._deliver(task, seconds, canceled)

    def _deliver(self, task: Task, seconds: float, canceled: bool) -> None:
        stored = time.monotonic()
        try:
            results = [_result(task.job, index, future) for index, future in enumerate(task.futures)]
        except Exception as error:  # noqa: BLE001 - each storage has its own errors
            self._fail(task.job, error)
            return
        timings = {"engine_seconds": round(seconds, 3), "store_seconds": round(time.monotonic() - stored, 3)}
        if canceled:
            self._end(task.job, results, lambda: lifecycle.stop(task.job, results, timings))
            return
        whole = all(result.image for result in results)
        from_latents = any(result.tier == "latent" for result in results)
        key = reuse.picture_key(task.job, self.card.revision, from_latents=from_latents) if whole else None
        self._complete(task.job, results, timings, key)

    def _complete(self, job: Job, results: list[Result], timings: dict[str, float], key: bytes | None) -> None:
        self._end(job, results, lambda: lifecycle.complete(job, results, timings, key))

    def _end(self, job: Job, results: list[Result], write: Callable[[], int]) -> None:
        """End a job whose pictures are stored by `write`, which returns the charge; if it cannot, delete them."""
        try:
            metrics.captured(write())
        except LeaseLost:
            storage.discard_attempt(job)
            raise
        metrics.delivered([result for result in results if result.image])
        if job.attempt > 1:
            storage.keep_only(job, {result.image.path for result in results if result.image})

    def _fail(self, job: Job, error: BaseException) -> None:
        logger.error("job %s, attempt %s failed", job.id, job.attempt, exc_info=error)
        storage.discard_attempt(job)  # must come first: after `fail` the next attempt may be storing its pictures
        code, told = "internal", "The picture could not be made."
        if isinstance(error, InvalidRequest):
            code, told = "invalid_request", str(error)
        elif isinstance(error, FileNotFoundError):
            code, told = "input_gone", "A picture that this job was ordered with is no longer there."
        elif isinstance(error, Unavailable | AdapterUnavailable):
            code, told = "adapter_unavailable", "An adapter that this job was ordered with cannot be read now."
        elif isinstance(error, InferenceError):
            code = "engine_failed"
        lifecycle.fail(
            job,
            code,
            told,
            # the same seed would break the same picture, and the bank already tried to load the adapter
            retry=not isinstance(error, BrokenPicture | AdapterUnavailable | InvalidRequest | FileNotFoundError),
            after=timedelta(seconds=settings.RETRY_SECONDS * 4 ** (job.attempt - 1)),
        )

    def _running(self) -> list[Task]:
        with self.lock:
            return list(self.tasks.values())

    def _cancel(self, task: Task) -> None:
        for request in task.requests:
            self.engine.cancel(request)

    def _keep_beating(self) -> None:
        while not self.stopped.wait(HEARTBEAT_SECONDS):
            self._try_heartbeat()

    def _try_heartbeat(self) -> None:
        try:
            self._heartbeat()
        except Exception as error:  # noqa: BLE001 - without the database the leases run out, as they should
            logger.warning("heartbeat failed: %s", error)
        finally:
            connection.close()

    def _heartbeat(self) -> None:
        if not self.engine.warm and not self.leaving.is_set():
            logger.critical("the engine broke; this worker ends, so that its supervisor starts another")
            self.leaving.set()
            os.kill(os.getpid(), signal.SIGTERM)
        with self.lock:
            tasks = dict(self.tasks)
        wanted = lifecycle.heartbeat(self.name, {job_id: task.progress for job_id, task in tasks.items()})
        for job_id, task in tasks.items():
            if wanted.get(job_id, True):
                task.lost = job_id not in wanted
                self._cancel(task)
        metrics.engine(self.engine.running(), self.engine.max_batch_tokens)
        self._report_alive(len(tasks))

    def _report_alive(self, running: int) -> None:
        WorkerRow.objects.update_or_create(
            name=self.name,
            defaults={
                "model": self.card.name,
                "revision": self.card.revision,
                "warm": self.engine.warm and not self.leaving.is_set(),
                "running": running,
                "seen_at": Now(),
            },
        )


def request_for(
    job: Job,
    index: int,
    images: tuple[Pixels.Image, ...] = (),
    mask: Pixels.Image | None = None,
    adapters: Sequence[str] = (),
) -> Request:
    """Make the engine's request for picture `index` of a job from its input pictures and the files of its adapters.

    Each has the next seed.
    """
    order = job.order
    left, top, right, bottom = order.get("extend", (0, 0, 0, 0))
    box = order.get("box")
    return Request(
        prompt=order["prompt"],
        negative_prompt=order["negative_prompt"],
        width=order["width"],
        height=order["height"],
        steps=order["steps"],
        guidance_scale=order["guidance_scale"],
        seed=job.seed_of(index),
        service_class=job.service_class,
        deterministic=order.get("deterministic", False),
        account=str(job.account_id),
        reference=reuse.reference_of(job.id, index),
        operation=job.operation,
        images=images,
        mask=mask,
        strength=order.get("strength", 1.0),
        adapters=tuple(zip(adapters, uses.scales(order), strict=True)),
        extend=(left, top, right, bottom),
        box=box and (box[0], box[1], box[2], box[3]),
        use_cache=reuse.takes_latents(job),
    )


def _if_canceled(request: Request) -> pricing.ImageOutcome:
    """Return what would become of a picture if its job was canceled now: with all its steps it would be delivered."""
    future = request.ticket.future
    if future.done() and not isinstance(future.exception(), Canceled | None):
        return pricing.ImageOutcome(delivered=False, steps_run=0)
    return pricing.ImageOutcome(request.phase is Phase.DECODE, request.steps_run, request.state.steps_skipped)


def _result(job: Job, index: int, future: Future[Picture]) -> Result:
    """Store a picture that is finished. One that was canceled is charged for its steps, one that failed is not."""
    if error := future.exception():
        steps = error.steps_run if isinstance(error, Canceled) else 0
        return Result(pricing.ImageOutcome(delivered=False, steps_run=steps))
    picture = future.result()
    outcome = pricing.ImageOutcome(True, picture.steps_run, picture.steps_skipped)
    tier = "latent" if picture.steps_skipped else "none"
    similarity = None if picture.similarity is None else round(picture.similarity, 4)
    return Result(outcome, storage.put(job, index, picture.image), tier, similarity)
