"""One stack a home folder. Not a lock for anything inside it."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from devstack.processes import StartFailed


@contextlib.contextmanager
def held(home: Path) -> Iterator[None]:
    """Hold the home for as long as the block lasts; the kernel lets go when this process ends.

    Raises StartFailed, naming the process that holds it.
    """
    with (home / "lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            raise StartFailed(
                f"{home} is in use by a stack that runs already (process {holder}).\n"
                "Stop that one, or start another beside it: KILN_HOME=/another/folder PORT=8001 make run"
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
