"""The database and the broker together."""

import contextlib
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from devstack.postgres import Postgres
from devstack.redis import Redis
from marketplace.addresses import Addresses


class Servers:
    """`home` is the folder whose `postgres` and `redis` they live in.

    What `named` names, as DATABASE_URL and REDIS_URL, is used instead of a server of their own.
    """

    def __init__(self, home: Path, *, durable: bool = True, named: Mapping[str, str] | None = None) -> None:
        self.home = home
        self.durable = durable
        self.named = named or {}
        self.started: list[Postgres | Redis] = []

    def start(self) -> Addresses:
        """Start what is not named, PostgreSQL first. Raises StartFailed; nothing runs then."""
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
    """Two servers of their own for as long as the block lasts. Raises StartFailed."""
    servers = Servers(home, durable=durable)
    try:
        yield servers.start()
    finally:
        servers.stop()
