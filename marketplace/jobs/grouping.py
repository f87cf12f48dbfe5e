"""Group commit: calls that arrive while a statement is on its way are carried together by the next one.

Whoever finds the road free carries all who wait, itself among them; then the first of those who came meanwhile
does. So nobody waits for company, a lone call goes at once, and under load one commit serves many.
Not for what is carried: that is `submission`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

Call = TypeVar("Call")
Outcome = TypeVar("Outcome")


class _Seat(Generic[Call, Outcome]):
    """One thread's call; `turn` is released when it has been carried, or when its thread is to carry."""

    __slots__ = ("call", "error", "outcome", "turn")

    def __init__(self, call: Call) -> None:
        self.call = call
        self.turn = threading.Lock()
        self.turn.acquire()
        self.outcome: list[Outcome] = []
        self.error: BaseException | None = None


class Group(Generic[Call, Outcome]):
    """`carry` turns calls, at most `largest`, into their outcomes, in the same order."""

    def __init__(self, carry: Callable[[Sequence[Call]], Sequence[Outcome]], largest: int) -> None:
        self._carry = carry
        self._largest = largest
        self._mutex = threading.Lock()
        self._waiting: list[_Seat[Call, Outcome]] = []
        self._busy = False

    def join(self, call: Call) -> Outcome:
        """This call's outcome; raises what `carry` raised."""
        seat: _Seat[Call, Outcome] = _Seat(call)
        with self._mutex:
            self._waiting.append(seat)
            leads, self._busy = not self._busy, True
        if not leads:
            seat.turn.acquire()
        if not seat.outcome and not seat.error:
            self._lead(seat)
        if seat.error:
            raise seat.error
        return seat.outcome[0]

    def _lead(self, own: _Seat[Call, Outcome]) -> None:
        with self._mutex:
            seats, self._waiting = self._waiting[: self._largest], self._waiting[self._largest :]
        try:
            for seat, outcome in zip(seats, self._carry([seat.call for seat in seats]), strict=True):
                seat.outcome.append(outcome)
        except BaseException as error:  # noqa: BLE001 - raised again by each who was carried
            for seat in seats:
                seat.error = error
        with self._mutex:
            following = self._waiting[:1]
            self._busy = bool(following)
        for seat in (*following, *seats):
            if seat is not own:
                seat.turn.release()
