"""The parts of Kiln beside its servers: what runs, how it is told to stop. Not how it is supervised."""

import os
import secrets
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from marketplace.addresses import ROOT, Addresses

QUEUES = "interactive,standard,batch"
MANAGE = (sys.executable, str(ROOT / "manage.py"))
CELERY = (sys.executable, "-m", "celery", "-A", "marketplace")


@dataclass(frozen=True)
class Part:
    """`drain` is how many seconds the part has to end after SIGTERM.

    `orphaned` is the signal that the kernel sends it when the supervisor is killed. One that `serves` others ends after
    those. One that `loads` for a while needs no tables before that is done.
    """

    name: str
    command: tuple[str, ...]
    drain: float = 10.0
    one_thread: bool = True
    serves: bool = False
    loads: bool = False
    orphaned: signal.Signals = signal.SIGKILL


def parts(home: Path, port: int) -> list[Part]:
    """In the order of their start."""
    address = ("--interface", "wsgi", "--host", "127.0.0.1", "--port", str(port), "--no-ws")
    # the other half is for PostgreSQL, Redis and the worker
    half = max(1, len(os.sched_getaffinity(0)) // 2)
    processes = ("--workers", os.environ.get("KILN_WEB_PROCESSES") or str(half))
    threads = ("--blocking-threads", "16", "--workers-kill-timeout", "5")
    quiet = ("--without-gossip", "--without-mingle", "--without-heartbeat", "-l", "warning")
    pool = ("--pool", "threads", "--concurrency", os.environ.get("KILN_WORKER_THREADS") or "16")
    return [
        Part(
            "web",
            (sys.executable, "-m", "granian", *address, *processes, *threads, "marketplace.wsgi:application"),
            orphaned=signal.SIGTERM,  # its own children end with it on SIGTERM only
            serves=True,
            loads=True,
        ),
        Part(
            "worker",
            (*CELERY, "worker", *pool, "-Q", QUEUES, "-n", "worker@%h", *quiet),
            drain=30.0,
            one_thread=False,
            loads=True,
        ),
        Part("dispatcher", (*MANAGE, "dispatch")),
        # Apart from the worker, whose threads may all be waiting for pictures while leases need sweeping. More
        # threads here than periodic tasks, each of which takes one at most: none waits for one that waits for Stripe.
        Part(
            "maintenance",
            (
                *CELERY,
                "worker",
                "--pool",
                "threads",
                "--concurrency",
                "12",
                "-Q",
                "maintenance",
                "-n",
                "maintenance@%h",
                *quiet,
            ),
        ),
        Part("beat", (*CELERY, "beat", "-s", str(home / "beat-schedule"), "-l", "warning")),
    ]


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
    """`shared`, and for parts that do no arithmetic one thread."""
    return {**shared, "OMP_NUM_THREADS": "1"} if part.one_thread else dict(shared)
