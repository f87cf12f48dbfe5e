"""The parts of Kiln beside its servers: what runs, how it is told to stop. Not how it is supervised."""

import os
import secrets
import signal
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from marketplace.addresses import ROOT, Addresses

QUEUES = "interactive,standard,batch"
MANAGE = (sys.executable, str(ROOT / "manage.py"))
CADDY = Path(sysconfig.get_path("scripts"), "caddy")
CELERY = (sys.executable, "-m", "celery", "-A", "marketplace")


@dataclass(frozen=True)
class Part:
    """`drain` is how many seconds the part has to end after SIGTERM, `settings` what it alone finds in its environment.

    `orphaned` is the signal that the kernel sends it when the supervisor is killed. One that `serves` others ends after
    those. One that `loads` for a while needs no tables before that is done.
    """

    name: str
    command: tuple[str, ...]
    drain: float = 10.0
    settings: Mapping[str, str] = field(default_factory=dict)
    one_thread: bool = True
    serves: bool = False
    loads: bool = False
    orphaned: signal.Signals = signal.SIGKILL


@dataclass(frozen=True)
class Ports:
    """Where customers come to, `front`, and the servers behind it."""

    front: int
    web: int
    streams: int


def parts(home: Path, ports: Ports) -> list[Part]:
    """In the order of their start."""
    quiet = ("--without-gossip", "--without-mingle", "--without-heartbeat", "-l", "warning")
    threads = ("--pool", "threads", "--concurrency")
    return [
        *_servers(ports),
        _front(home, ports),
        Part(
            "worker",
            (
                *(*CELERY, "worker", *threads, os.environ.get("KILN_WORKER_THREADS") or "16"),
                *("-Q", QUEUES, "-n", "worker@%h", *quiet),
            ),
            drain=30.0,
            one_thread=False,
            loads=True,
        ),
        Part("dispatcher", (*MANAGE, "dispatch")),
        Part(
            "deliverer",
            (*MANAGE, "deliver"),
            drain=20.0,
            # no request tells it how it is called
            settings={"KILN_PUBLIC_URL": os.environ.get("KILN_PUBLIC_URL") or f"http://127.0.0.1:{ports.front}"},
        ),
        Part("trainer", (*MANAGE, "train"), drain=60.0, one_thread=False),
        # Apart from the worker, whose threads may all be waiting for pictures while leases need sweeping. More
        # threads here than periodic tasks, each of which takes one at most: none waits for one that waits for Stripe.
        Part("maintenance", (*CELERY, "worker", *threads, "24", "-Q", "maintenance", "-n", "maintenance@%h", *quiet)),
        Part("beat", (*CELERY, "beat", "-s", str(home / "beat-schedule"), "-l", "warning")),
    ]


def _servers(ports: Ports) -> list[Part]:
    granian = (sys.executable, "-m", "granian", "--host", "127.0.0.1", "--no-ws", "--workers-kill-timeout", "5")
    # the other half is for PostgreSQL, Redis and the worker
    half = max(1, len(os.sched_getaffinity(0)) // 2)
    processes = ("--workers", os.environ.get("KILN_WEB_PROCESSES") or str(half))
    threads = ("--interface", "wsgi", "--blocking-threads", "16")
    # more at once than `KILN_STREAMS` allows; one line for each client that left would be too many
    loop = ("--interface", "asgi", "--loop", "asyncio", "--workers", "1")
    many = ("--backlog", "4096", "--backpressure", "4096", "--log-level", "warning")
    commands = {
        "web": (*granian, "--port", str(ports.web), *processes, *threads, "marketplace.wsgi:application"),
        "streams": (*granian, "--port", str(ports.streams), *loop, *many, "marketplace.asgi:application"),
    }
    # their own children end with them on SIGTERM only
    return [Part(name, command, orphaned=signal.SIGTERM, serves=True, loads=True) for name, command in commands.items()]


def _front(home: Path, ports: Ports) -> Part:
    return Part(
        "front",
        (str(CADDY), "run", "--config", str(ROOT / "deploy" / "Caddyfile"), "--adapter", "caddyfile"),
        settings={
            "KILN_FRONT_HOST": "127.0.0.1",
            "KILN_FRONT_PORT": str(ports.front),
            "KILN_WEB": f"127.0.0.1:{ports.web}",
            "KILN_STREAMS_SERVER": f"127.0.0.1:{ports.streams}",
            "KILN_TRUSTED_PROXIES": (os.environ.get("KILN_TRUSTED_PROXIES") or "").replace(",", " "),
            "KILN_BODY_MB": str(most_mebibytes()),
            "KILN_HIDDEN": os.environ.get("KILN_HIDDEN") or "/-",
            "XDG_DATA_HOME": str(home / "front"),
            "XDG_CONFIG_HOME": str(home / "front"),
        },
        serves=True,
    )


def most_mebibytes() -> int:
    """More than any body that Kiln takes: what is beyond, the front does not even read."""
    file, adapter = int(os.environ.get("KILN_FILE_MB") or 10), int(os.environ.get("KILN_ADAPTER_MB") or 1024)
    return max(4 * file, adapter) + 1


def stripe_double(home: Path, port: int, own_port: int) -> tuple[Part, dict[str, str]]:
    """A Stripe that moves no money, for a stack whose web server is at `port`; and the settings that lead there."""
    secret = f"whsec_{secrets.token_hex(16)}"
    webhook = ("--webhook-url", f"http://127.0.0.1:{port}/webhooks/stripe", "--webhook-secret", secret)
    data = ("--data", str(home / "stripe.sqlite"))
    command = (sys.executable, "-m", "devstack.stripe", "--port", str(own_port), *data, *webhook)
    return Part("stripe", command, serves=True, loads=True), {
        "STRIPE_API_BASE": f"http://127.0.0.1:{own_port}",
        "STRIPE_SECRET_KEY": "sk_test_double",
        "STRIPE_WEBHOOK_SECRET": secret,
    }


def mark(home: Path) -> str:
    """The environment entry by which the processes of the stack in `home` are known."""
    return f"KILN_STACK={home}"


def environment(home: Path, found: Addresses) -> dict[str, str]:
    """What every part, and every management command beside them, finds in its environment."""
    name, _, value = mark(home).partition("=")
    return os.environ | {
        name: value,
        "DATABASE_URL": found.database_url,
        "REDIS_URL": found.redis_url,
        "KILN_HOME": str(home),
        "PROMETHEUS_MULTIPROC_DIR": str(home / "metrics"),
        "DJANGO_SETTINGS_MODULE": "marketplace.settings",
        "PYTHONUNBUFFERED": "1",
        # Django's checks load all that a process may never need, and `make check` has made them
        "CELERY_SKIP_CHECKS": "true",
        # on cores that all parts share, a thread that waits in a loop for the next one keeps it from running
        "OMP_WAIT_POLICY": "PASSIVE",
        **found.stripe,
    }


def environment_of(part: Part, shared: Mapping[str, str]) -> dict[str, str]:
    """`shared` and the part's own settings, and for parts that do no arithmetic one thread."""
    return {**shared, **part.settings} | ({"OMP_NUM_THREADS": "1"} if part.one_thread else {})
