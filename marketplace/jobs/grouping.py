"""Group commit: calls that arrive while a statement is running are executed together by the next one.

A thread that finds no statement running leads: it executes all waiting calls, including its own. Then the first of the
threads that arrived meanwhile leads. So a lone call runs at once without waiting for others, and under load one commit
serves many. `submission` defines what is executed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

Call = TypeVar("Call")
Outcome = TypeVar("Outcome")


class _Entry(Generic[Call, Outcome]):
    """One thread's call; `turn` is released when the call was executed, or when its thread is to lead."""

    __slots__ = ("call", "error", "outcome", "turn")

    def __init__(self, call: Call) -> None:
        self.call = call
        self.turn = threading.Lock()
        self.turn.acquire()
        self.outcome: list[Outcome] = []
        self.error: BaseException | None = None


class Group(Generic[Call, Outcome]):
    """Calls that are executed in groups: `execute` turns at most `largest` calls into outcomes, in the same order."""

    def __init__(self, execute: Callable[[Sequence[Call]], Sequence[Outcome]], largest: int) -> None:
        self._execute = execute
        self._largest = largest
        self._mutex = threading.Lock()
        self._waiting: list[_Entry[Call, Outcome]] = []
        self._busy = False

    def join(self, call: Call) -> Outcome:
        """Execute a call, together with others if they wait, and return its outcome. Raises what `execute` raised."""
        entry: _Entry[Call, Outcome] = _Entry(call)
        with self._mutex:
            self._waiting.append(entry)
            leads, self._busy = not self._busy, True
        if not leads:
            entry.turn.acquire()
        if not entry.outcome and not entry.error:
            self._lead(entry)
        if entry.error:
            raise entry.error
        return entry.outcome[0]

    def _lead(self, own: _Entry[Call, Outcome]) -> None:
        with self._mutex:
            group, self._waiting = self._waiting[: self._largest], self._waiting[self._largest :]
        try:
            for entry, outcome in zip(group, self._execute([entry.call for entry in group]), strict=True):
                entry.outcome.append(outcome)
        except BaseException as error:  # noqa: BLE001 - raised again in the thread of each call
            for entry in group:
                entry.error = error
        with self._mutex:
            following = self._waiting[:1]
            self._busy = bool(following)
        for entry in (*following, *group):
            if entry is not own:
                entry.turn.release()
