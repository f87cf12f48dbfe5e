"""Children that cannot outlive their parent, and the leftovers of parents that were killed. Linux only.

LocalError
├── StartFailed   a part ended before it was ready, did not get ready in time, or what it needs is taken
└── PartEnded     a part ended while the stack was running
"""

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypedDict

PR_SET_PDEATHSIG = 1
NOBODY = 65534
POLL_SECONDS = 0.02
_libc = ctypes.CDLL(None)

Child = subprocess.Popen[bytes]


class Identity(TypedDict, total=False):
    """Arguments of Popen that say whom a child runs as; empty for this user."""

    user: int
    group: int
    extra_groups: list[int]


class LocalError(Exception):
    """The message says which part failed, how, and ends with the last lines of its log."""


class StartFailed(LocalError):
    """See the tree above."""


class PartEnded(LocalError):
    """See the tree above."""


def spawn(
    command: Sequence[str | Path],
    log: Path,
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    orphaned: signal.Signals = signal.SIGKILL,
    as_nobody: bool = False,
) -> Child:
    """Start `command` in a session of its own, its output in `log` (overwritten).

    The kernel sends it `orphaned` when the calling thread ends, however it ends: call from the main thread.
    """
    parent = os.getpid()

    def die_with_parent() -> None:
        _libc.prctl(PR_SET_PDEATHSIG, orphaned, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)

    with log.open("wb") as output:
        return subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=env,
            cwd=cwd,
            start_new_session=True,
            preexec_fn=die_with_parent,
            **identity(as_nobody),
        )


def identity(as_nobody: bool) -> Identity:
    """The identity of `nobody`, without any of root's groups, or of this user."""
    return {"user": NOBODY, "group": NOBODY, "extra_groups": []} if as_nobody else {}


def stop(child: Child, *steps: tuple[signal.Signals, float], hurried: Callable[[], bool] = lambda: False) -> None:
    """Send each step's signal until the child has ended, waiting its seconds; then SIGKILL its whole group.

    Once `hurried` returns True the remaining steps are skipped.
    """
    for number, seconds in steps:
        if child.poll() is not None or hurried():
            break
        child.send_signal(number)
        wait_until(lambda: child.poll() is not None or hurried(), seconds)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    """Poll `condition` for at most `seconds`; whether it came true."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True


def became_ready(child: Child, ready: Callable[[], bool], seconds: float) -> bool:
    """Wait until `ready`; False where the child ended first. Raises StartFailed after `seconds`."""
    if not wait_until(lambda: child.poll() is not None or ready(), seconds):
        raise StartFailed(f"process {child.pid} was not ready after {seconds:.0f} s")
    return child.poll() is None


def serving(folder: Path, name: str) -> list[int]:
    """Ids of the processes called `name` whose working directory is `folder`; zombies have none."""
    found = []
    for entry in _processes():
        with contextlib.suppress(OSError):
            if os.readlink(entry / "cwd") == str(folder) and (entry / "comm").read_text().strip() == name:
                found.append(int(entry.name))
    return found


def carrying(variable: str) -> list[int]:
    """Ids of the other processes that were started with `variable` ("NAME=value") in their environment."""
    found = []
    for entry in _processes():
        with contextlib.suppress(OSError):
            if variable.encode() in (entry / "environ").read_bytes().split(b"\0"):
                found.append(int(entry.name))
    return [pid for pid in found if pid != os.getpid()]


def clear(find: Callable[[], list[int]], *steps: tuple[signal.Signals, float]) -> None:
    """Send each step's signal to what `find` returns and wait, until it returns nothing.

    Raises StartFailed where something is left after the last step.
    """
    for number, seconds in steps:
        _signal(find(), number)
        if wait_until(lambda: not find(), seconds):
            return
    raise StartFailed(f"processes left by an earlier start do not end: {find()}")


def _signal(pids: Iterable[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def _processes() -> list[Path]:
    return [entry for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def free_port() -> int:
    """A TCP port on 127.0.0.1 that nobody listens on now; another process may still take it first."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def tail(log: Path, lines: int = 20) -> str:
    """The last lines of a log, indented; empty where there is none."""
    if not log.exists():
        return ""
    return "\n".join(f"    {line}" for line in log.read_text(errors="replace").splitlines()[-lines:])
