"""A complete Kiln, each part of which can be killed and started again at the same address."""

import contextlib
import http.client
import os
import random
import signal
import time
import urllib.request
from dataclasses import replace
from pathlib import Path

import redis

from devstack import parts, processes
from devstack.parts import Part
from devstack.postgres import Postgres
from devstack.redis import Redis
from devstack.servers import Servers
from marketplace.addresses import ROOT

READY_SECONDS = 300.0
CLOCKS = Path(__file__).parent / "clock"
# How far the clock of each part is off, at most.
CLOCK_SECONDS = 7.0
HASTE = {
    "KILN_LEASE_SECONDS": "3",
    "KILN_SWEEP_SECONDS": "1",
    "KILN_DRAIN_SECONDS": "1",
    "KILN_RETRY_SECONDS": "1",
    "KILN_WEB_PROCESSES": "2",
    "KILN_LOG_LEVEL": "WARNING",
    "KILN_WEBHOOKS_PRIVATE": "1",
    "KILN_EARNINGS_DAYS": "0",
    "KILN_PAYOUT_MINIMUMS": "eur:0.02,usd:0.02",
    "KILN_TRAINING_SAVE_SECONDS": "1",
    "KILN_ADAPTERS_KEPT_UNFUNDED": "100",
    "OMP_NUM_THREADS": "1",
}


class Site:
    """The site; used from the main thread only, since the kernel ends children with the thread that started them."""

    def __init__(self, home: Path, seed: int) -> None:
        self.home, self.seed = home, seed
        self.servers = Servers(home, durable=False)
        self.port = processes.free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.parts: dict[str, Part] = {}
        self.children: dict[str, processes.Child] = {}
        self.leaving: list[processes.Child] = []
        self.environment: dict[str, str] = {}
        self.clocks: dict[str, float] = {}
        self.starts = 0
        self.stripe = ""

    def start(self) -> None:
        """Start the servers, make the tables, then start all parts, without waiting for them."""
        part, settings = parts.stripe_double(self.home, self.port, processes.free_port())
        double = replace(part, command=(*part.command, "--retry-scale", "0.001", "--webhook-timeout", "5"))
        self.stripe = settings["STRIPE_API_BASE"]
        found = replace(self.servers.start(), stripe=settings)
        self.environment = parts.environment(self.home, found) | HASTE
        for folder in (self.home / "metrics", self.log_folder):
            folder.mkdir()
        os.environ.update(self.environment)  # the accountant reads the same tables
        migration = processes.spawn([*parts.MANAGE, "migrate", "--noinput"], self.log("migrate"), cwd=ROOT)
        if migration.wait() != 0:
            raise processes.StartFailed(processes.tail(self.log("migrate")))
        ports = parts.Ports(self.port, processes.free_port(), processes.free_port())
        self.parts = {each.name: each for each in [double, *parts.parts(self.home, ports)]}
        rng = random.Random(f"{self.seed}:clocks")
        self.clocks = {name: round(rng.uniform(-CLOCK_SECONDS, CLOCK_SECONDS), 1) for name in self.parts}
        self.revive()

    def stop(self) -> None:
        for name, child in reversed(self.children.items()):
            processes.stop(child, (signal.SIGTERM, 2.0 if name == "worker" else 10.0))
        self.servers.stop()

    def kill(self, name: str) -> None:
        """Kill a part with its whole process group, if it runs."""
        if child := self.children.pop(name, None):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()

    def end(self, name: str) -> None:
        """Ask a part to end; `revive` starts it again once it has."""
        if child := self.children.get(name):
            child.terminate()
            self.leaving.append(child)

    def revive(self) -> None:
        """Start every part that does not run."""
        for name, part in self.parts.items():
            if name not in self.children or self.children[name].poll() is not None:
                self.starts += 1
                environment = parts.environment_of(part, self.environment) | self.clock(name)
                log = self.log(f"{self.starts:03}-{name}")
                self.children[name] = processes.spawn(
                    part.command, log, env=environment, cwd=ROOT, orphaned=part.orphaned
                )

    def clock(self, name: str) -> dict[str, str]:
        """Return what makes a part's clock wrong; those of the servers and of the accountant are right."""
        path = os.pathsep.join(filter(None, (str(CLOCKS), os.environ.get("PYTHONPATH"))))
        return {"PYTHONPATH": path, "CHAOS_CLOCK_AHEAD": str(self.clocks[name])}

    def restart_postgres(self, number: signal.Signals) -> None:
        """Restart PostgreSQL: SIGINT cuts all connections and shuts down cleanly, SIGQUIT leaves crash recovery."""
        server = next(each for each in self.servers.started if isinstance(each, Postgres))
        child = server.running()
        child.send_signal(number)
        child.wait()
        server.restart()

    def restart_redis(self) -> None:
        """Kill Redis and start it again; its file may lack the last moments."""
        server = next(each for each in self.servers.started if isinstance(each, Redis))
        child = server.running()
        child.kill()
        child.wait()
        server.restart()

    def flush_redis(self) -> None:
        with contextlib.suppress(redis.RedisError), redis.Redis.from_url(self.environment["REDIS_URL"]) as client:
            client.flushall()

    def ready(self) -> bool:
        """Return whether the web server, the double and the worker answer, none of which was asked to end."""
        from django.db import OperationalError, connection

        from marketplace.jobs.models import Worker

        self.revive()
        if any(child.poll() is None for child in self.leaving):
            return False
        try:
            for url in (f"{self.url}/readyz", f"{self.stripe}/_control/totals"):
                with urllib.request.urlopen(url, timeout=5):
                    pass
            names = Worker.objects.filter(warm=True).values_list("name", flat=True)
            return any(name.split("-")[-2] == str(self.children["worker"].pid) for name in names)
        except (OSError, http.client.HTTPException, OperationalError):
            time.sleep(0.5)  # a part that cannot start must not be retried all the time
            return False
        finally:
            connection.close()  # a restarted server no longer knows it

    def wait_ready(self) -> None:
        """Wait until everything is ready. Raises StartFailed, with the ends of the logs, if it takes too long."""
        if not processes.wait_until(self.ready, READY_SECONDS):
            raise processes.StartFailed(f"not ready after {READY_SECONDS:.0f} s\n{self.logs()}")

    @property
    def log_folder(self) -> Path:
        return self.home / "logs"

    def log(self, name: str) -> Path:
        return self.log_folder / f"{name}.log"

    def logs(self) -> str:
        found = sorted(self.log_folder.glob("*.log"))
        return "\n".join(f"{log.stem}:\n{processes.tail(log, 15)}" for log in found)
