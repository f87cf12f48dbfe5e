"""Ctrl-C, SIGTERM and a closed terminal, noted instead of raised, so that a stack stops in order."""

import signal
from types import FrameType


class Interrupted(Exception):
    """Somebody asked the stack to stop."""


class Interrupts:
    """Counts the requests to stop since it was created."""

    def __init__(self) -> None:
        self.count = 0
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._note)
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # nohup means it
            signal.signal(signal.SIGHUP, self._note)

    def check(self) -> None:
        """Raise Interrupted once somebody asked to stop."""
        if self.count:
            raise Interrupted

    def hurried(self) -> bool:
        """Whether somebody asked twice."""
        return self.count > 1

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.count += 1
