"""The lock on the device, which knows what is running, and a thread that notices a batch that takes far too long."""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from inference.scheduling.scheduler import Batch

# a batch is stuck after this many times its expected seconds, but never before this many seconds
STUCK_FACTOR = 20
STUCK_SECONDS = 60.0


@dataclass(frozen=True)
class RunningBatch:
    """A running batch, its start (monotonic seconds), and the seconds after which it counts as stuck."""

    batch: Batch
    since: float
    limit: float

    @property
    def seconds(self) -> float:
        """Seconds since it began."""
        return time.monotonic() - self.since

    def __str__(self) -> str:
        rows = ", ".join(
            f"{row.reference or 'a request'} ({row.width}x{row.height}, step {row.state.step_index} of {row.steps_due})"
            for row in self.batch.requests
        )
        tokens = self.batch.image_tokens
        return f"{self.batch.phase} for {self.seconds:.1f} s, {tokens} image tokens, requests: {rows}"


class DeviceLock:
    """A shared or exclusive lock on the device, first come, first served."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._queue: deque[object] = deque()
        self._running: list[RunningBatch] = []
        self._exclusive = False

    def running(self) -> tuple[RunningBatch, ...]:
        """Return the batches that hold the lock. From any thread."""
        return tuple(self._running)

    @contextmanager
    def hold(self, batch: Batch, limit: float, *, exclusive: bool = False) -> Iterator[RunningBatch]:
        """Hold the lock while a batch runs: beside other batches, or with the device to itself if `exclusive`."""
        with self._changed:
            self._queue.append(place := object())
            self._changed.wait_for(
                lambda: self._queue[0] is place and not self._exclusive and not (exclusive and self._running)
            )
            self._queue.popleft()
            self._changed.notify_all()
            self._exclusive = exclusive
            running = RunningBatch(batch, time.monotonic(), limit)
            self._running.append(running)
        try:
            yield running
        finally:
            with self._changed:
                self._running.remove(running)
                self._exclusive = self._exclusive and not exclusive
                self._changed.notify_all()


class Watchdog:
    """A thread that checks the running batches every `seconds`, and calls `on_stuck` once, for the first stuck one."""

    def __init__(
        self, running: Callable[[], Sequence[RunningBatch]], on_stuck: Callable[[RunningBatch], None], seconds: float
    ) -> None:
        self._running = running
        self._on_stuck = on_stuck
        self._seconds = seconds
        self._ended = threading.Event()

    def start(self) -> None:
        """Start the thread."""
        threading.Thread(target=self._watch, name="kiln-watchdog", daemon=True).start()

    def stop(self) -> None:
        """End the thread."""
        self._ended.set()

    def _watch(self) -> None:
        while not self._ended.wait(self._seconds):
            for running in self._running():
                if running.seconds > running.limit:
                    self._on_stuck(running)
                    return
