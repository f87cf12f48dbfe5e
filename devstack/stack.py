"""The whole of Kiln as children of this process: started in order, watched, started again, stopped side by side."""

import contextlib
import http.client
import os
import shutil
import signal
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import NoReturn, Self
from urllib.parse import urlsplit

from devstack import lock, parts, processes
from devstack.interrupts import Interrupts
from devstack.parts import Part, Ports
from devstack.processes import Child, PartEnded, StartFailed
from devstack.servers import Servers
from marketplace import addresses
from marketplace.addresses import ROOT, Addresses

COMMAND_SECONDS = 300.0
READY_SECONDS = 600.0
SAY_AGAIN_SECONDS = 15.0
# A part that ended is started again after a pause, which doubles while it does not live for `STEADY_SECONDS`.
PAUSES = (0.2, 30.0)
STEADY_SECONDS = 60.0
LEFTOVER_STEPS = ((signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0))


@dataclass
class Running:
    """A child with the name that people know it by, and how another one is started in its place."""

    name: str
    child: Child
    log: Path
    replace: Callable[[], Child]
    part: Part | None = None
    since: float = field(default_factory=time.monotonic)
    pause: float = PAUSES[0]
    due: float | None = None

    def obituary(self) -> str:
        return _obituary(self.name, self.child, self.log)


class Stack:
    """A context manager: inside its block every part runs, `wait_ready` until they serve; afterwards nothing runs.

    `say` is told, a line at a time, how the start goes on. What `named` names, as DATABASE_URL, REDIS_URL and
    STRIPE_SECRET_KEY, is not started. `stripe` is where the double of Stripe is, if it runs. `durable=False` is for
    data that nobody keeps.
    """

    def __init__(
        self,
        home: Path,
        port: int,
        interrupts: Interrupts,
        say: Callable[[str], None],
        named: Mapping[str, str] | None = None,
        *,
        durable: bool = True,
    ) -> None:
        self.home = home.resolve()
        self.port = port
        self.interrupts = interrupts
        self.say = say
        self.named = named
        self.durable = durable
        self.url = f"http://127.0.0.1:{port}"
        self.stripe = ""
        self.environment: dict[str, str] = {}
        self.running: list[Running] = []
        self._stops = contextlib.ExitStack()

    def __enter__(self) -> Self:
        """Start everything. Raises LocalError, Interrupted; nothing runs then."""
        with contextlib.ExitStack() as stops:
            self._prepare(stops)
            double, settings = self._stripe_double()
            early = self._is_new()
            found = self._start_servers(stops, settings)
            self.environment = parts.environment(self.home, found)
            stops.callback(self._clear_leftovers, (signal.SIGKILL, 5.0))
            stops.callback(self._stop_parts)
            ports = Ports(self.port, processes.free_port(), processes.free_port())
            wanted = [*double, *parts.parts(self.home, ports)]
            self._start_parts([part for part in wanted if part.loads and early])
            self.manage("migrate", "--noinput")
            self.say("tables are up to date")
            self._start_parts([part for part in wanted if not (part.loads and early)])
            self._stops = stops.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stops.close()

    def wait_ready(self) -> None:
        """Wait until the stack serves. Raises what `check` raises."""
        self.say("waiting for the worker to load its model")
        spoken = time.monotonic()

        def ready() -> bool:
            nonlocal spoken
            answer = _readiness(self.url)
            if time.monotonic() - spoken > SAY_AGAIN_SECONDS:
                spoken = time.monotonic()
                self.say(f"still waiting: {answer}")
            return answer.startswith("200 ")

        self._wait(lambda: not self.stripe or _listens(self.stripe), READY_SECONDS)
        self._wait(ready, READY_SECONDS)

    def watch(self) -> NoReturn:
        """Start again whatever ends, until somebody asks to stop. Raises Interrupted."""
        while True:
            self.interrupts.check()
            for part in self.running:
                if part.child.poll() is None:
                    continue
                if part.due is None:
                    self._announce_end(part)
                elif part.due <= time.monotonic():
                    self._start_again(part)
            time.sleep(0.1)

    def check(self) -> None:
        """Raise PartEnded where a part has ended, Interrupted where somebody asked to stop."""
        self.interrupts.check()
        for part in self.running:
            if part.child.poll() is not None:
                raise PartEnded(part.obituary())

    def manage(self, *arguments: str) -> list[str]:
        """Run a management command beside the stack and return its lines. Raises StartFailed."""
        log = self._log(arguments[0])
        child = processes.spawn([*parts.MANAGE, *arguments, "--skip-checks"], log, env=self.environment, cwd=ROOT)
        try:
            self._wait(lambda: child.poll() is not None, COMMAND_SECONDS)
        finally:
            processes.stop(child, (signal.SIGTERM, 2.0))
        if child.returncode != 0:
            raise StartFailed(_obituary(f"manage.py {arguments[0]}", child, log))
        return log.read_text().splitlines()

    def last_lines(self, name: str) -> str:
        """The end of a part's log, under a heading."""
        return f"the end of {self._log(name)}:\n{processes.tail(self._log(name))}"

    def _prepare(self, stops: contextlib.ExitStack) -> None:
        if not self.home.exists():
            self.home.mkdir(parents=True)
            self.home.chmod(0o711 if os.geteuid() == 0 else 0o700)
        stops.enter_context(lock.held(self.home))
        self._clear_leftovers(*LEFTOVER_STEPS)
        _require_free(self.port)
        shutil.rmtree(self.home / "metrics", ignore_errors=True)
        for folder in ("metrics", "logs"):
            (self.home / folder).mkdir(exist_ok=True, mode=0o700)

    def _is_new(self) -> bool:
        """Whether the database will be empty: nobody can work on tables that are changed under them."""
        return not (self.home / "postgres").exists() and not (self.named or {}).get("DATABASE_URL")

    def _clear_leftovers(self, *steps: tuple[signal.Signals, float]) -> None:
        processes.clear(lambda: processes.carrying(parts.mark(self.home)), *steps)

    def _stripe_double(self) -> tuple[list[Part], dict[str, str]]:
        """The part, and the settings that lead to it; neither where a key to Stripe itself is named."""
        if (self.named or {}).get("STRIPE_SECRET_KEY"):
            return [], {}
        part, settings = parts.stripe_double(self.home, self.port, processes.free_port())
        self.stripe = settings["STRIPE_API_BASE"]
        self.say(f"payments go to a DOUBLE of Stripe at {self.stripe}, no money moves")
        return [part], settings

    def _start_servers(self, stops: contextlib.ExitStack, stripe: dict[str, str]) -> Addresses:
        servers = Servers(self.home, durable=self.durable, named=self.named)
        stops.callback(servers.stop)
        found = servers.start()
        for server in servers.started:
            self.running.append(Running(server.log.stem, server.running(), server.log, server.restart))
            self.say(f"{server.log.stem} started")
        found = replace(found, stripe=stripe)
        addresses.write(self.home, found)
        stops.callback(addresses.forget, self.home)
        return found

    def _start_parts(self, wanted: list[Part]) -> None:
        for part in wanted:
            start = partial(self._start_part, part)
            self.running.append(Running(part.name, start(), self._log(part.name), start, part))
            self.say(f"{part.name} started")

    def _start_part(self, part: Part) -> Child:
        environment = parts.environment_of(part, self.environment)
        return processes.spawn(part.command, self._log(part.name), env=environment, cwd=ROOT, orphaned=part.orphaned)

    def _announce_end(self, part: Running) -> None:
        if time.monotonic() - part.since > STEADY_SECONDS:
            part.pause = PAUSES[0]
        self.say(f"{part.obituary()}\n{part.name} is started again in {part.pause:.1f} s")
        processes.stop(part.child)  # what it has left
        part.due, part.pause = time.monotonic() + part.pause, min(2 * part.pause, PAUSES[1])

    def _start_again(self, part: Running) -> None:
        try:
            part.child = part.replace()
        except StartFailed as error:
            self.say(str(error))
        part.since, part.due = time.monotonic(), None

    def _stop_parts(self) -> None:
        """All at once, but that those which serve the others end after them."""
        found = [(each.part, each.child) for each in self.running if each.part]
        for serving in (False, True):
            with ThreadPoolExecutor() as pool:
                ending = [pool.submit(self._stop_part, *each) for each in found if each[0].serves is serving]
            for each in ending:
                each.result()

    def _stop_part(self, part: Part, child: Child) -> None:
        processes.stop(child, (signal.SIGTERM, part.drain), hurried=self.interrupts.hurried)

    def _wait(self, condition: Callable[[], bool], seconds: float) -> None:
        """Poll `condition`. Raises what `check` raises, and StartFailed after `seconds`."""
        deadline = time.monotonic() + seconds
        while not condition():
            self.check()
            if time.monotonic() > deadline:
                raise StartFailed(f"not done after {seconds:.0f} s; logs are in {self.home / 'logs'}")
            time.sleep(0.1)

    def _log(self, name: str) -> Path:
        return self.home / "logs" / f"{name}.log"


def _obituary(name: str, child: Child, log: Path) -> str:
    """How a child ended, and its last lines."""
    code = child.returncode
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    return f"{name} {how}; the end of {log}:\n{processes.tail(log)}"


def _require_free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # the last stack's closed connections
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise StartFailed(
                f"port {port} cannot be used: {error.strerror}. Choose another: PORT={port + 1} make run"
            ) from None


def _listens(url: str) -> bool:
    address = urlsplit(url)
    with contextlib.suppress(OSError), socket.create_connection((address.hostname, address.port or 80), timeout=5):
        return True
    return False


def _readiness(url: str) -> str:
    """Status and body of /readyz, or why there is none."""
    try:
        with urllib.request.urlopen(f"{url}/readyz", timeout=5) as answer:
            return f"{answer.status} {answer.read().decode(errors='replace')}"
    except urllib.error.HTTPError as refusal:
        return f"{refusal.code} {refusal.read(500).decode(errors='replace')}"
    except (OSError, http.client.HTTPException) as error:
        return f"no answer from {url}/readyz ({error})"
