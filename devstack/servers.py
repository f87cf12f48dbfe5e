"""The database and the broker together."""

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from devstack.postgres import Postgres
from devstack.redis import Redis
from marketplace.addresses import Addresses

# Of temporary folders; whoever uses one holds the lock on its file.
PREFIX, IN_USE = "kiln-", "in-use"


class Servers:
    """PostgreSQL and Redis, in the folders `postgres` and `redis` of `home`.

    Addresses in `named`, by the names DATABASE_URL and REDIS_URL, are used instead of starting a server.
    """

    def __init__(self, home: Path, *, durable: bool = True, named: Mapping[str, str] | None = None) -> None:
        self.home = home
        self.durable = durable
        self.named = named or {}
        self.started: list[Postgres | Redis] = []

    def start(self) -> Addresses:
        """Start what is not named, PostgreSQL first. Raises StartFailed, after stopping whatever had started."""
        try:
            database = self.named.get("DATABASE_URL") or self._start(
                Postgres(self.home / "postgres", durable=self.durable)
            )
            broker = self.named.get("REDIS_URL") or self._start(Redis(self.home / "redis", durable=self.durable))
        except BaseException:
            self.stop()
            raise
        return Addresses(database, broker)

    def stop(self) -> None:
        """Stop what was started, last one first."""
        while self.started:
            self.started.pop().stop()

    def _start(self, server: Postgres | Redis) -> str:
        self.started.append(server)
        return server.start()


@contextlib.contextmanager
def temporary_home() -> Iterator[Path]:
    """Yield a folder for one stack or test run; it is deleted afterwards with all its content.

    What a run that was killed left is deleted by the next one.
    """
    _sweep()
    with tempfile.TemporaryDirectory(prefix=PREFIX) as name:
        home = Path(name)
        home.chmod(0o711 if os.geteuid() == 0 else 0o700)
        with (home / IN_USE).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            try:
                yield home
            finally:
                Postgres(home / "postgres").erase()


def _sweep() -> None:
    """Delete this user's folders whose locks nobody holds any more."""
    for path in Path(tempfile.gettempdir()).glob(f"{PREFIX}*/{IN_USE}"):
        home = path.parent
        with contextlib.suppress(OSError), path.open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if home.lstat().st_uid == os.geteuid():
                Postgres(home / "postgres").erase()
                shutil.rmtree(home, ignore_errors=True)


@contextlib.contextmanager
def running(home: Path, *, durable: bool) -> Iterator[Addresses]:
    """Yield the addresses of two servers that run for the duration of the block. Raises StartFailed."""
    servers = Servers(home, durable=durable)
    try:
        yield servers.start()
    finally:
        servers.stop()
