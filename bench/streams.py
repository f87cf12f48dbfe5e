"""Measures what open streams and waiting orders cost the others: `python -m bench.streams [--quick]`.

The front, the web server and the one that waits, as `make run` starts them, on a PostgreSQL that waits for its disk.
Four clients buy and look, ten requests a second each, in turns: alone, and beside 500 open streams and 200 waiting
orders. A fifth of the watched jobs run: each makes two steps and shows one preview a second. The turns alternate, so
that a busy machine slows both; what counts is the ratio of their 99th percentiles.
"""

import asyncio
import http.client
import json
import multiprocessing
import os
import random
import signal
import statistics
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from bench.api import ORDER, prepare, responds
from devstack import parts, processes, servers

CLIENTS, EACH_A_SECOND = 4, 10.0
JOBS, RUNNING = 100, 20
PREVIEW = "/9j/" + "A" * 6000
PARTS = ("web", "streams", "front")
Latencies = dict[str, list[float]]


def main(quick: bool = False) -> dict[str, Any]:
    """Measure latencies in milliseconds, with and without streams, and the ratio of their 99th percentiles."""
    seconds, rounds, streams, orders = (3.0, 2, 50, 20) if quick else (20.0, 6, 500, 200)
    with servers.temporary_home() as home, servers.running(home, durable=True) as found:
        environment = parts.environment(home, found)
        os.environ.update(environment)
        Path(environment["PROMETHEUS_MULTIPROC_DIR"]).mkdir()
        keys = prepare()
        ports = parts.Ports(*(processes.free_port() for _ in range(3)))
        wanted = {each.name: each for each in parts.parts(home, ports)}
        children = {
            name: processes.spawn(
                wanted[name].command, home / f"{name}.log", env=parts.environment_of(wanted[name], environment)
            )
            for name in PARTS
        }
        try:
            if not processes.wait_until(lambda: all(map(responds, (ports.web, ports.streams, ports.front))), 90):
                sys.exit("\n".join(processes.tail(home / f"{name}.log") for name in PARTS))
            watched = jobs(ports.front, keys)
            traffic(ports.front, keys, 1.0)
            turns = []
            for _ in range(rounds):
                alone = traffic(ports.front, keys, seconds)
                with Crowd(ports.front, keys, watched, streams, orders) as crowd, Steps(watched[:RUNNING]):
                    threads_beside = threads(children["streams"].pid)
                    turns.append((alone, traffic(ports.front, keys, seconds)))
                    kept = crowd.ask()
        finally:
            for child in children.values():
                processes.stop(child, (signal.SIGTERM, 10.0))
    return {"requests": summary(turns), "beside": kept | {"threads of the server that waits": threads_beside}}


def jobs(port: int, keys: list[str]) -> list[tuple[str, str]]:
    """Buy the jobs to watch, and let some of them run; return each with its key."""
    from django.db.models.functions import Now

    from marketplace.jobs.models import Job

    found = []
    for number in range(JOBS):
        key = keys[number % len(keys)]
        found.append((request(http.client.HTTPConnection("127.0.0.1", port), "POST", "/v1/jobs", key)["id"], key))
    running = Job.objects.filter(id__in=[job_id for job_id, _ in found[:RUNNING]])
    running.update(status="running", attempt=1, worker="bench", lease_expires_at=Now() + timedelta(hours=1))
    return found


def request(connection: http.client.HTTPConnection, method: str, path: str, key: str) -> Any:
    body = json.dumps(ORDER) if method == "POST" else None
    connection.request(method, path, body, {"Authorization": f"Bearer {key}", "Content-Type": "application/json"})
    answer = connection.getresponse()
    if answer.status not in (200, 202):
        raise RuntimeError(f"{path} answered {answer.status}: {answer.read(500)!r}")
    return json.loads(answer.read())


def traffic(port: int, keys: list[str], seconds: float) -> Latencies:
    """Have all clients buy and look in turn, in a process of their own; return their latencies in seconds."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(clients, (port, keys, seconds))


def clients(port: int, keys: list[str], seconds: float) -> Latencies:
    with ThreadPoolExecutor(CLIENTS) as pool:
        found = list(pool.map(lambda _: client(port, keys, seconds), range(CLIENTS)))
    return {name: [latency for each in found for latency in each[name]] for name in found[0]}


def client(port: int, keys: list[str], seconds: float) -> Latencies:
    """Each request has its time, whether the last one was quick or not."""
    connection, found = http.client.HTTPConnection("127.0.0.1", port, timeout=60), Latencies(POST=[], GET=[])
    due = time.perf_counter() + random.random() / EACH_A_SECOND
    until, key, job_id = due + seconds, random.choice(keys), ""
    while due < until:
        time.sleep(max(0.0, due - time.perf_counter()))
        if job_id:
            request(connection, "GET", f"/v1/jobs/{job_id}", key)
            found["GET"].append(time.perf_counter() - due)
            job_id = ""
        else:
            key = random.choice(keys)
            job_id = request(connection, "POST", "/v1/jobs", key)["id"]
            found["POST"].append(time.perf_counter() - due)
        due += 1 / EACH_A_SECOND
    return found


class Steps:
    """What a worker tells of its jobs, in a thread, while the block runs."""

    def __init__(self, watched: list[tuple[str, str]]) -> None:
        self._watched = [job_id for job_id, _ in watched]
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._tell)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _tell(self) -> None:
        from uuid import UUID

        from marketplace.jobs import news

        step, job_ids = 0, [UUID(job_id) for job_id in self._watched]
        with news.connect() as redis:
            while not self._over.wait(0.5):
                step += 1
                told: list[Any] = [(job_id, news.Progress(1, step)) for job_id in job_ids]
                if step % 2:
                    told += [(job_id, news.Preview(1, 0, step, PREVIEW)) for job_id in job_ids]
                news.publish(redis, told)


class Crowd:
    """Those who watch and wait, in a process of their own, connected while the block runs."""

    def __init__(self, port: int, keys: list[str], watched: list[tuple[str, str]], streams: int, orders: int) -> None:
        self._pipe, theirs = multiprocessing.Pipe()
        arguments = (port, keys, watched, streams, orders, theirs)
        self._process = multiprocessing.get_context("spawn").Process(target=crowd, args=arguments)

    def __enter__(self) -> "Crowd":
        self._process.start()
        if not self._pipe.poll(120) or self._pipe.recv() != "open":
            raise RuntimeError("not all streams could be opened")
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.join()

    def ask(self) -> dict[str, int]:
        """Return how many are still connected, and how many events they have received."""
        self._pipe.send("count")
        counted: dict[str, int] = self._pipe.recv()
        return counted


def crowd(
    port: int, keys: list[str], watched: list[tuple[str, str]], streams: int, orders: int, pipe: Connection
) -> None:
    asyncio.run(_crowd(port, keys, watched, streams, orders, pipe))


async def _crowd(
    port: int, keys: list[str], watched: list[tuple[str, str]], streams: int, orders: int, pipe: Connection
) -> None:
    counted = {"open streams": 0, "waiting orders": 0, "events": 0}
    body = json.dumps(ORDER).encode()
    few = asyncio.Semaphore(20)

    async def watch(job_id: str, key: str) -> None:
        reader = await _connected(port, f"GET /v1/jobs/{job_id}/events", key, "Accept: text/event-stream", b"")
        async with few:
            await reader.readuntil(b"\n\n")
        counted["open streams"] += 1
        while line := await reader.readline():
            counted["events"] += line.startswith(b"event: ")
        counted["open streams"] -= 1

    async def order(key: str) -> None:
        reader = await _connected(port, "POST /v1/jobs", key, f"Prefer: wait=60\r\nContent-Length: {len(body)}", body)
        counted["waiting orders"] += 1
        await reader.read(1)
        counted["waiting orders"] -= 1

    tasks = []
    for number in range(max(streams, orders)):
        if number < streams:
            tasks.append(asyncio.create_task(watch(*watched[number % len(watched)])))
        if number < orders:
            tasks.append(asyncio.create_task(order(keys[number % len(keys)])))
        await asyncio.sleep(0.01)
    while counted["open streams"] < streams or counted["waiting orders"] < orders:
        await asyncio.sleep(0.1)
    await asyncio.sleep(2)
    pipe.send("open")
    await asyncio.to_thread(pipe.recv)
    pipe.send(counted)
    await asyncio.gather(*tasks)


async def _connected(port: int, line: str, key: str, headers: str, body: bytes) -> asyncio.StreamReader:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(
        f"{line} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {key}\r\n{headers}\r\n"
        f"Content-Type: application/json\r\n\r\n".encode()
        + body
    )
    await writer.drain()
    reader.writer = writer  # type: ignore[attr-defined] # it closes what nobody holds
    return reader


def threads(pid: int) -> int:
    """Of a server's own processes, all together."""
    family = [pid, *map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]
    return sum(len(list(Path(f"/proc/{each}/task").iterdir())) for each in family)


def summary(turns: list[tuple[Latencies, Latencies]]) -> dict[str, Any]:
    rows = {}
    for name in ("POST", "GET"):
        for place, label in enumerate(("alone", "beside")):
            latencies = [latency for turn in turns for latency in turn[place][name]]
            rows[f"{name} {label}"] = {"p50 ms": milliseconds(latencies, 50), "p99 ms": milliseconds(latencies, 99)}
        ratios = [milliseconds(beside[name], 99) / milliseconds(alone[name], 99) for alone, beside in turns]
        rows[f"{name} beside / alone"] = {
            "p50 ms": f"{min(ratios):.2f} to {max(ratios):.2f} over {len(ratios)} turns",
            "p99 ms": round(statistics.median(ratios), 2),
        }
    return rows


def milliseconds(latencies: list[float], percent: int) -> float:
    ordered = sorted(latencies)
    return round(1000 * ordered[len(ordered) * percent // 100], 2)


if __name__ == "__main__":
    print(json.dumps(main("--quick" in sys.argv), indent=2))
