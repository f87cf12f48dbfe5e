"""Measures `POST /v1/jobs` per second beside a DRF view that does nothing, on the same server: `python -m bench.api`.

One web server as `make run` starts it (granian), on a PostgreSQL that waits for its disk at each commit. 8 connections,
kept alive, in two client processes, buy for 64 customers in turn; short turns of both requests alternate, so that a
busy machine slows both. Then a profile of one process shows where a request's time goes.
"""

import cProfile
import http.client
import json
import multiprocessing
import os
import pstats
import random
import signal
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from devstack import parts, processes, servers

ORDER = {"prompt": "a red circle on a white background", "width": 256, "height": 256, "steps": 20}
CLIENTS, CLIENT_PROCESSES, CUSTOMERS = 8, 2, 64
REQUESTS = {"jobs": "/v1/jobs", "noop": "/noop"}
# the parts of a request's time: the function whose cumulated time counts, and what it stands for
PLACES = {
    "API key": ("authentication.py", "authenticate"),
    "check of the body": ("schemas.py", "order"),
    "price": ("pricing.py", "quote"),
    "hold and job (one statement)": ("prepared.py", "rows"),
    "answer": ("views.py", "one"),
    "rendering": ("response.py", "rendered_content"),
}


def main(quick: bool = False) -> dict[str, Any]:
    """Measure requests per second, latencies in milliseconds, and shares of the profile."""
    seconds, rounds = (1.0, 2) if quick else (2.0, 6)
    with servers.temporary_home() as home, servers.running(home, durable=True) as found:
        environment = parts.environment(home, found) | {"DJANGO_SETTINGS_MODULE": "bench.api_settings"}
        os.environ.update(environment)
        Path(environment["PROMETHEUS_MULTIPROC_DIR"]).mkdir()
        keys = prepare()
        port = processes.free_port()
        web = parts.parts(home, parts.Ports(0, port, 0))[0]
        child = processes.spawn(web.command, home / "web.log", env=environment | {"OMP_NUM_THREADS": "1"})
        try:
            answers = lambda: responds(port)  # noqa: E731
            if not processes.became_ready(child, answers, 60):
                sys.exit(processes.tail(home / "web.log"))
            for path in REQUESTS.values():
                turn(port, path, keys, 0.5)
            turns = [{name: turn(port, path, keys, seconds) for name, path in REQUESTS.items()} for _ in range(rounds)]
        finally:
            processes.stop(child, (signal.SIGTERM, 10.0))
        return {"requests": summary(turns, seconds), "profile": profile(keys[0], 100 if quick else 500)}


def prepare() -> list[str]:
    """Set up the tables and customers with plenty of Tokens; return their API keys."""
    import django
    from django.core.management import call_command

    django.setup()
    call_command("migrate", verbosity=0)
    from billing.tokens import wallets
    from marketplace.accounts import customers, keys

    accounts = [customers.create(f"bench-{number}@example.com") for number in range(CUSTOMERS)]
    for account in accounts:
        wallets.grant(account.id, 10**12, f"bench {account.id}")
    return [keys.issue(account.id, "bench")[1] for account in accounts]


def responds(port: int) -> bool:
    try:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        connection.request("GET", "/healthz")
        return connection.getresponse().status == 200
    except OSError:
        return False


def turn(port: int, path: str, keys: list[str], seconds: float) -> list[float]:
    """Have all clients make requests for this time; return their latencies in seconds."""
    each = CLIENTS // CLIENT_PROCESSES
    with multiprocessing.get_context("fork").Pool(CLIENT_PROCESSES) as pool:
        found = pool.starmap(client_process, [(port, path, keys, seconds, each)] * CLIENT_PROCESSES)
    return [latency for latencies in found for latency in latencies]


def client_process(port: int, path: str, keys: list[str], seconds: float, threads: int) -> list[float]:
    found: list[float] = []
    running = [threading.Thread(target=client, args=(port, path, keys, seconds, found)) for _ in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    return found


def client(port: int, path: str, keys: list[str], seconds: float, found: list[float]) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    headers = {"Content-Type": "application/json"}
    body, until = json.dumps(ORDER).encode(), time.perf_counter() + seconds
    while (began := time.perf_counter()) < until:
        connection.request("POST", path, body, headers | {"Authorization": f"Bearer {random.choice(keys)}"})
        answer = connection.getresponse()
        answer.read()
        if answer.status not in (200, 202):
            raise RuntimeError(f"{path} answered {answer.status}")
        found.append(time.perf_counter() - began)


def summary(turns: list[dict[str, list[float]]], seconds: float) -> dict[str, Any]:
    rows = {}
    for name, path in REQUESTS.items():
        latencies = sorted(latency for each in turns for latency in each[name])
        rows[f"POST {path}"] = {
            "a second": round(len(latencies) / len(turns) / seconds, 1),
            "p50 ms": round(1000 * latencies[len(latencies) // 2], 2),
            "p99 ms": round(1000 * latencies[len(latencies) * 99 // 100], 2),
        }
    ratios = [len(each["jobs"]) / len(each["noop"]) for each in turns]
    rows["ratio"] = {
        "a second": round(statistics.median(ratios), 3),
        "p50 ms": f"{min(ratios):.3f} to {max(ratios):.3f} over {len(ratios)} turns",
    }
    return rows


def profile(key: str, count: int) -> dict[str, Any]:
    """Return shares of a request's time in this process, by cProfile (which slows Python more than waiting)."""
    from django.test import Client

    client = Client(headers={"Authorization": f"Bearer {key}"})
    buy = lambda: client.post("/v1/jobs", ORDER, content_type="application/json")  # noqa: E731
    for _ in range(20):
        assert buy().status_code == 202
    profiler = cProfile.Profile()
    profiler.enable()
    for _ in range(count):
        buy()
    profiler.disable()
    with tempfile.NamedTemporaryFile() as file:
        profiler.dump_stats(file.name)
        stats: Any = pstats.Stats(file.name)
    handler = cumulated(stats, "base.py", "get_response")
    shares = {name: cumulated(stats, *where) / handler for name, where in PLACES.items()}
    statements = calls(stats, *PLACES["hold and job (one statement)"]) / count
    return {
        "milliseconds a request": round(1000 * handler / count, 2),
        "statements a request": round(statements, 2),
        **{name: f"{share:.0%}" for name, share in shares.items()},
    }


def entries(stats: Any, file: str, function: str) -> list[tuple[Any, ...]]:
    return [row for (path, _, name), row in stats.stats.items() if path.endswith(f"/{file}") and name == function]


def cumulated(stats: Any, file: str, function: str) -> float:
    return max((row[3] for row in entries(stats, file, function)), default=0.0)


def calls(stats: Any, file: str, function: str) -> int:
    return max((row[0] for row in entries(stats, file, function)), default=0)


if __name__ == "__main__":
    print(json.dumps(main("--quick" in sys.argv), indent=2))
