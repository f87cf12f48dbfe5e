"""What the engine is doing, and a thread that notices when it takes far too long."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from inference.scheduler import Batch

# a batch is stuck after so many times what it should take, and never before so many seconds
STUCK_FACTOR = 20
STUCK_SECONDS = 60.0


@dataclass(frozen=True)
class Doing:
    """The batch that runs, since when (monotonic seconds), and the seconds after which it counts as stuck."""

    batch: Batch
    since: float
    limit: float

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.since

    def __str__(self) -> str:
        rows = ", ".join(
            f"{row.reference or 'a request'} ({row.width}x{row.height}, step {row.step_index} of {row.steps_due})"
            for row in self.batch.requests
        )
        tokens = self.batch.image_tokens
        return f"{self.batch.phase} for {self.seconds:.1f} s, {tokens} image tokens, requests: {rows}"


class Watchdog:
    """Asks again and again what is being done, and calls `bark` once when that is stuck."""

    def __init__(self, doing: Callable[[], Doing | None], bark: Callable[[Doing], None], seconds: float) -> None:
        self._doing = doing
        self._bark = bark
        self._seconds = seconds
        self._ended = threading.Event()

    def start(self) -> None:
        threading.Thread(target=self._watch, name="kiln-watchdog", daemon=True).start()

    def stop(self) -> None:
        self._ended.set()

    def _watch(self) -> None:
        while not self._ended.wait(self._seconds):
            doing = self._doing()
            if doing and doing.seconds > doing.limit:
                self._bark(doing)
                return
