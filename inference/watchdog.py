"""What the engine is doing, and a thread that notices when it takes far too long."""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from inference.scheduling.scheduler import Batch

# a batch is stuck after so many times what it should take, and never before so many seconds
STUCK_FACTOR = 20
STUCK_SECONDS = 60.0


@dataclass(frozen=True)
class Doing:
    """A batch that runs, since when (monotonic seconds), and the seconds after which it counts as stuck."""

    batch: Batch
    since: float
    limit: float

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.since

    def __str__(self) -> str:
        rows = ", ".join(
            f"{row.reference or 'a request'} ({row.width}x{row.height}, step {row.state.step_index} of {row.steps_due})"
            for row in self.batch.requests
        )
        tokens = self.batch.image_tokens
        return f"{self.batch.phase} for {self.seconds:.1f} s, {tokens} image tokens, requests: {rows}"


class Device:
    """Who runs on it: batches of several threads beside one another, or one that has it alone; who comes first goes
    first."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._line: deque[object] = deque()
        self._running: list[Doing] = []
        self._taken = False

    def doing(self) -> tuple[Doing, ...]:
        """From any thread."""
        return tuple(self._running)

    @contextmanager
    def room(self, batch: Batch, limit: float, *, alone: bool = False) -> Iterator[Doing]:
        """Within, the batch runs. Waits for one that is alone and, to be `alone`, for all others."""
        with self._changed:
            self._line.append(place := object())
            self._changed.wait_for(lambda: self._line[0] is place and not self._taken and not (alone and self._running))
            self._line.popleft()
            self._changed.notify_all()
            self._taken = alone
            doing = Doing(batch, time.monotonic(), limit)
            self._running.append(doing)
        try:
            yield doing
        finally:
            with self._changed:
                self._running.remove(doing)
                self._taken = self._taken and not alone
                self._changed.notify_all()


class Watchdog:
    """Asks again and again what is being done, and calls `on_stuck` once when one of that is stuck."""

    def __init__(self, doing: Callable[[], Sequence[Doing]], on_stuck: Callable[[Doing], None], seconds: float) -> None:
        self._doing = doing
        self._on_stuck = on_stuck
        self._seconds = seconds
        self._ended = threading.Event()

    def start(self) -> None:
        threading.Thread(target=self._watch, name="kiln-watchdog", daemon=True).start()

    def stop(self) -> None:
        self._ended.set()

    def _watch(self) -> None:
        while not self._ended.wait(self._seconds):
            for doing in self._doing():
                if doing.seconds > doing.limit:
                    self._on_stuck(doing)
                    return
