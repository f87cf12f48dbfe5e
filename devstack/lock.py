"""A lock that allows one stack per home folder. Not for locking anything inside it."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from devstack.processes import StartFailed


@contextlib.contextmanager
def held(home: Path) -> Iterator[None]:
    """Hold the home folder for the duration of the block; the kernel releases it when this process ends.

    Raises StartFailed, naming the process that holds it.
    """
    with (home / "lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            raise StartFailed(
                f"{home} is in use by a stack that is already running (process {holder}).\n"
                "Stop it, or start another stack in its own folder: KILN_HOME=/another/folder PORT=8001 make run"
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
