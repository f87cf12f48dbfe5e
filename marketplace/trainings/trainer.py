"""The loop of `manage.py train`: claims one training after another and runs each in a process of its own.

So nothing of a training stays in memory, and one that takes its process down takes nothing else with it. The process
is `python -m inference.training.adapter`, which knows nothing of jobs and leaves checkpoints; this one extends the
lease, stores what comes, and learns of cancels. Where this one dies, another goes on from the newest checkpoint.
"""

from __future__ import annotations

import ctypes
import json
import logging
import os
import queue
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

from django.conf import settings
from django.db import DatabaseError, connection
from django.db.models.functions import Now

from marketplace.jobs.models import ALIVE_WITHIN, Worker
from marketplace.trainings import lifecycle, pictures, results, storage
from marketplace.trainings.errors import LeaseLost, Unusable
from marketplace.trainings.models import Training

HEARTBEAT_SECONDS = 1.0
LOOK_SECONDS = 2.0
LEAVE_SECONDS = 60.0
RETRY_AFTER = timedelta(seconds=10)
PR_SET_PDEATHSIG = 1
# There is one here if this is there.
GPU = Path("/dev/nvidiactl")
INVALID, DIVERGED = 2, 3
"""Exit statuses of the process."""
# What the process finds in its environment: where programs, models and devices are, and how many threads to use.
PASSED = (
    "CUDA", "HF_", "HOME", "LANG", "LC_", "LD_LIBRARY_PATH", "MKL_", "NVIDIA", "OMP_", "PATH", "PYTORCH", "TMPDIR",
    "TORCH",
)  # fmt: skip
_libc = ctypes.CDLL(None)

logger = logging.getLogger(__name__)


@dataclass
class Run:
    """A training in its process: where its files are, and what it told and nobody has looked at yet."""

    training: Training
    folder: Path
    process: subprocess.Popen[str]
    told: queue.Queue[dict[str, Any]] = field(default_factory=queue.Queue)

    @property
    def out(self) -> Path:
        return self.folder / "adapter.safetensors"

    @property
    def kept(self) -> Path:
        """Where the process leaves checkpoints, samples and adapters."""
        return _kept(self.folder)

    def listen(self) -> None:
        """Take what the process tells, until it ends."""
        assert self.process.stdout
        for line in self.process.stdout:
            with suppress(ValueError):
                self.told.put(json.loads(line))

    def last_words(self) -> str:
        lines = (self.folder / "errors").read_text(errors="replace").strip().splitlines()
        return lines[-1].rpartition("inference.training.adapter: ")[2][:500] if lines else ""


class Trainer:
    """Runs trainings one after another, until it is to stop."""

    def __init__(self, stopping: Callable[[], bool]) -> None:
        self.name = f"{socket.gethostname()}-{os.getpid()}-{uuid4().hex[:6]}"
        self.stopping = stopping

    def run(self) -> None:
        """Train until told to stop; if the database is unavailable, wait for it."""
        while not self.stopping():
            try:
                if may_train() and (training := lifecycle.claim(self.name)) is not None:
                    self.train(training)
                    continue
            except Exception:
                logger.exception("no training can be run, trying again soon")
            finally:
                connection.close()
            _sleep(LOOK_SECONDS, self.stopping)

    def train(self, training: Training) -> None:
        """Run one training from its claim to its end. Every outcome is written to the database; none is raised."""
        try:
            with tempfile.TemporaryDirectory(prefix="kiln-training-") as name, _alive(training):
                self._train(training, Path(name))
        except LeaseLost:
            logger.warning("%s is no longer this trainer's; its result is discarded", training)
        except Exception:
            logger.exception("%s", training)
            with suppress(LeaseLost):
                lifecycle.fail(training, "trainer_failed", "The trainer failed.", retry=True, after=RETRY_AFTER)

    def _train(self, training: Training, folder: Path) -> None:
        try:
            process = _start(training, folder)
        except FileNotFoundError:
            lifecycle.fail(training, "pictures_lost", "Not all of its pictures are there any more.", retry=False)
            return
        run = Run(training, folder, process)
        listener = threading.Thread(target=run.listen, name="listener", daemon=True)
        listener.start()
        try:
            canceled = self._follow(run)
        finally:
            _end(process)
        listener.join()
        _take(run)
        self._conclude(run, canceled)

    def _follow(self, run: Run) -> bool:
        """Wait until the process has ended, or was asked to because of a cancel (True) or because this one leaves."""
        while run.process.poll() is None:
            _sleep(HEARTBEAT_SECONDS, lambda: run.process.poll() is not None)
            if _take(run) or self.stopping():
                run.process.send_signal(signal.SIGTERM)
                self._await_end(run)
                return not self.stopping() or lifecycle.heartbeat(run.training)
        return False

    def _await_end(self, run: Run) -> None:
        """Let the process leave its last checkpoint."""
        _sleep(LEAVE_SECONDS, lambda: run.process.poll() is not None)

    def _conclude(self, run: Run, canceled: bool) -> None:
        status, training = run.process.returncode, run.training
        if status == 0 or canceled:
            self._deliver(run)
        elif self.stopping():
            _store_checkpoint(run)
            lifecycle.give_back(training)
        elif status == INVALID:
            lifecycle.fail(training, "invalid_pictures", run.last_words(), retry=False)
        elif status == DIVERGED:
            lifecycle.fail(training, "diverged", run.last_words(), retry=False)
        else:
            logger.warning("%s ended with %s: %s", training, status, run.last_words())
            lifecycle.fail(training, "trainer_failed", "The trainer failed.", retry=True, after=RETRY_AFTER)

    def _deliver(self, run: Run) -> None:
        try:
            if run.process.returncode == 0:
                results.deliver(run.training, run.out)
            else:
                results.deliver_canceled(run.training)
        except Unusable as error:
            lifecycle.fail(run.training, "unusable", str(error), retry=False)


@contextmanager
def _alive(training: Training) -> Iterator[None]:
    """Extend the lease from another thread while this one does what takes its time, such as to store a checkpoint."""
    done = threading.Event()

    def beat() -> None:
        while not done.wait(HEARTBEAT_SECONDS):
            try:
                lifecycle.heartbeat(training)
            except LeaseLost:
                break
            except DatabaseError as error:
                logger.warning("the lease of %s is not extended: %s", training, error)
                connection.close()
        connection.close()

    beating = threading.Thread(target=beat, name="heartbeat", daemon=True)
    beating.start()
    try:
        yield
    finally:
        done.set()
        beating.join()


def may_train() -> bool:
    """Return whether the device is free: a GPU that serves pictures is shared only if the operator allows it."""
    if settings.TRAIN_BESIDE_SERVING or not GPU.exists():
        return True
    here = Worker.objects.filter(name__startswith=f"{socket.gethostname()}-")
    return not here.filter(seen_at__gt=Now() - ALIVE_WITHIN).exists()


def _start(training: Training, folder: Path) -> subprocess.Popen[str]:
    """Write what the process needs and start it. Raises FileNotFoundError if a picture is not there any more."""
    shown = folder / "pictures"
    shown.mkdir()
    pictures.write(training, shown)
    if training.checkpoint:
        _kept(folder).mkdir()
        with suppress(FileNotFoundError):  # then it begins anew
            storage.fetch(training.checkpoint, _kept(folder) / "checkpoint.safetensors")
    order, terms = training.order, training.tier.terms
    command = [
        *(sys.executable, "-m", "inference.training.adapter", "--json", "--pictures", str(shown)),
        *("--out", str(folder / "adapter.safetensors"), "--model", settings.MODEL),
        *("--steps", str(order["steps"]), "--resolution", str(order["side"]), "--rank", str(terms.rank)),
        *("--layers", terms.layers),
        *("--seed", str(order["seed"]), "--save-seconds", str(settings.TRAINING_SAVE_SECONDS)),
        *(f"--sample={prompt}" for prompt in order["samples"]),
    ]
    parent = os.getpid()

    def die_with_parent() -> None:
        _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)

    with (folder / "errors").open("w") as errors:
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, text=True,
            env=_passed(), preexec_fn=die_with_parent,
        )  # fmt: skip


def _passed() -> dict[str, str]:
    """Return the environment of the process, without settings and their secrets: it reads what customers sent."""
    return {name: value for name, value in os.environ.items() if name.startswith(PASSED)}


def _take(run: Run) -> bool:
    """Store and note what the process has told, extend the lease, and return whether to stop. Raises LeaseLost."""
    last, saved = None, False
    for told in _all(run.told):
        last, saved = told, saved or told["saved"]
        if told["evaluation"]:
            _store_evaluation(run, told["evaluation"])
    if saved:
        _store_checkpoint(run)
    progress = {}
    if last:
        progress = {"step": last["step"], "loss": last["loss"], "seconds_left": max(0, round(last["seconds_left"]))}
    return lifecycle.heartbeat(run.training, **progress)


def _all(told: queue.Queue[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    with suppress(queue.Empty):
        while True:
            yield told.get_nowait()


def _store_checkpoint(run: Run) -> None:
    path = run.kept / "checkpoint.safetensors"
    if path.exists():
        stored = storage.put(run.training, f"checkpoint-{uuid4().hex[:8]}.safetensors", path)
        storage.delete(lifecycle.checkpointed(run.training, stored))


def _store_evaluation(run: Run, told: dict[str, Any]) -> None:
    """Store an evaluation's samples and adapter, and delete the adapters that the tier does not keep."""
    evaluation = {**told, "samples": "", "adapter": ""}
    for kind, suffix in (("samples", "png"), ("adapter", "safetensors")):
        path = run.kept / f"{kind}-{told['step']:06d}.{suffix}"
        if path.exists():
            evaluation[kind] = storage.put(run.training, path.name, path)
    found = lifecycle.evaluated(run.training, evaluation)
    best = sorted((each for each in found if each["adapter"]), key=lambda each: each["score"], reverse=True)
    kept, left = best[: run.training.tier.versions_kept], best[run.training.tier.versions_kept :]
    if left:
        lifecycle.keep_adapters(run.training, [each["adapter"] for each in kept])
        for each in left:
            storage.delete(each["adapter"])


def _kept(folder: Path) -> Path:
    return folder / "adapter.safetensors.training"


def _end(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        process.kill()
    process.wait()


def _sleep(seconds: float, until: Callable[[], bool]) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and not until():
        time.sleep(0.05)
