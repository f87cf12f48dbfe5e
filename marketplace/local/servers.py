"""The database and the broker together: those that the environment does not name already."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from marketplace.local.addresses import Addresses
from marketplace.local.postgres import Postgres
from marketplace.local.redis import Redis


class Servers:
    """`home` is the folder whose `postgres` and `redis` they live in."""

    def __init__(self, home: Path, *, durable: bool = True) -> None:
        self.home = home
        self.durable = durable
        self.started: list[Postgres | Redis] = []

    def start(self) -> Addresses:
        """Start what DATABASE_URL and REDIS_URL do not name. Raises StartFailed; nothing runs then."""
        try:
            database = os.environ.get("DATABASE_URL") or self._start(
                Postgres(self.home / "postgres", durable=self.durable)
            )
            broker = os.environ.get("REDIS_URL") or self._start(Redis(self.home / "redis", durable=self.durable))
        except BaseException:
            self.stop()
            raise
        return Addresses(database, broker)

    def stop(self) -> None:
        """Stop what was started, last first."""
        while self.started:
            self.started.pop().stop()

    def _start(self, server: Postgres | Redis) -> str:
        self.started.append(server)
        return server.start()


@contextlib.contextmanager
def temporary_home() -> Iterator[Path]:
    """A folder for one stack or test run, gone afterwards with all it holds."""
    with tempfile.TemporaryDirectory(prefix="kiln-") as name:
        home = Path(name)
        home.chmod(0o711 if os.geteuid() == 0 else 0o700)
        try:
            yield home
        finally:
            Postgres(home / "postgres").erase()


@contextlib.contextmanager
def running(home: Path, *, durable: bool) -> Iterator[Addresses]:
    """Both servers for as long as the block lasts. Raises StartFailed."""
    servers = Servers(home, durable=durable)
    try:
        yield servers.start()
    finally:
        servers.stop()
