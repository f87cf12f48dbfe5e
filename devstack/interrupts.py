"""Records Ctrl-C, SIGTERM and a closed terminal instead of raising, so that a stack stops in an orderly way."""

import signal
import time
from types import FrameType

AGAIN_SECONDS = 0.5


class Interrupted(Exception):
    """A request to stop the stack."""


class Interrupts:
    """The requests to stop since this object was created.

    Signals within AGAIN_SECONDS count as one request: `timeout` and `make` repeat what the terminal sends.
    """

    def __init__(self) -> None:
        self.first: float | None = None
        self.last = 0.0
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._note)
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # unless nohup set it to be ignored
            signal.signal(signal.SIGHUP, self._note)

    def check(self) -> None:
        """Raise Interrupted if there was a request to stop."""
        if self.first is not None:
            raise Interrupted

    def hurried(self) -> bool:
        """Return whether there was a second request."""
        return self.first is not None and self.last - self.first > AGAIN_SECONDS

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.last = time.monotonic()
        if self.first is None:
            self.first = self.last
