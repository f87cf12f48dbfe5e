"""Ctrl-C, SIGTERM and a closed terminal, noted instead of raised, so that a stack stops in order."""

import signal
import time
from types import FrameType

AGAIN_SECONDS = 0.5


class Interrupted(Exception):
    """Somebody asked the stack to stop."""


class Interrupts:
    """The requests to stop since it was created.

    Signals within AGAIN_SECONDS are one request: `timeout` and `make` pass on what the terminal sends as well.
    """

    def __init__(self) -> None:
        self.first: float | None = None
        self.last = 0.0
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._note)
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # nohup means it
            signal.signal(signal.SIGHUP, self._note)

    def check(self) -> None:
        """Raise Interrupted once somebody asked to stop."""
        if self.first is not None:
            raise Interrupted

    def hurried(self) -> bool:
        """Whether somebody asked twice."""
        return self.first is not None and self.last - self.first > AGAIN_SECONDS

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.last = time.monotonic()
        if self.first is None:
            self.first = self.last
