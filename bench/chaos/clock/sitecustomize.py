"""A clock that is wrong: a process that finds this on its path lives so many seconds in the future, or in the past.

Python imports it before anything else of the process. `CHAOS_CLOCK_AHEAD` says how many seconds. Everything that reads
the time of day is shifted, nothing that measures durations. `datetime` is written in C and cannot be patched, but its
methods lie in a dictionary that the garbage collector knows. For the chaos alone.
"""

import ctypes
import gc
import os
import time
from collections.abc import Callable
from datetime import date, datetime, timedelta, tzinfo
from functools import partial
from typing import Any

AHEAD = float(os.environ.get("CHAOS_CLOCK_AHEAD", "0"))


def shift(seconds: float) -> None:
    """Shift this process's time of day."""
    ahead, nanoseconds = timedelta(seconds=seconds), int(seconds * 1_000_000_000)
    now, utcnow, real = datetime.now, datetime.utcnow, time.time

    def later(cls: type[datetime], tz: tzinfo | None = None) -> datetime:
        return now(tz) + ahead

    # Partials, since functions would become methods where a class keeps one as its clock.
    time.time, time.time_ns = partial(_sum, real, seconds), partial(_sum, time.time_ns, nanoseconds)
    for name in ("gmtime", "localtime"):
        setattr(time, name, partial(_split, getattr(time, name), time.time))
    _replace(datetime, now=later, today=later, utcnow=lambda cls: utcnow() + ahead)
    _replace(date, today=lambda cls: later(datetime).date())


def _sum(clock: Callable[[], Any], ahead: float) -> Any:
    return clock() + ahead


def _split(verb: Callable[[float], Any], clock: Callable[[], float], moment: float | None = None) -> Any:
    """Split a moment, or the present one, into a date and a time."""
    return verb(clock() if moment is None else moment)


def _replace(cls: type[Any], **methods: Any) -> None:
    """Replace class methods of a class that is written in C."""
    (names,) = gc.get_referents(cls.__dict__)
    names.update({name: classmethod(method) for name, method in methods.items()})
    ctypes.pythonapi.PyType_Modified(ctypes.py_object(cls))


if AHEAD:
    shift(AHEAD)
