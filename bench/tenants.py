"""Measures whether times tell what another account has: `python -m bench.tenants [--quick]`.

One customer has a job, a file, a key, a webhook, an adapter and a top-up. Another asks for each by its id, and for ids
that nobody has, one after the other in random order on one kept connection to the web server of `make run`. How well
the times tell them apart is the share of pairs in which the answer about the existing one took longer: 50 % is chance.
The quotes are of what the other account has ordered, and of what nobody has.
"""

import http.client
import io
import json
import os
import random
import signal
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

from bench.api import ORDER, prepare, responds
from devstack import parts, processes, servers

ROUNDS, PAIRS = 6, 500
Question = tuple[str, str, bytes | None]
"""Method, path and body."""
Making = Callable[[], Question]


def main(quick: bool = False) -> dict[str, Any]:
    """Measure, by address, medians in milliseconds and the share of pairs told apart, with the range of the rounds."""
    rounds, pairs = (2, 40) if quick else (ROUNDS, PAIRS)
    with servers.temporary_home() as home, servers.running(home, durable=True) as found:
        environment = parts.environment(home, found)
        os.environ.update(environment)
        Path(environment["PROMETHEUS_MULTIPROC_DIR"]).mkdir()
        owner, stranger = prepare()[:2]
        unlimited()
        port = processes.free_port()
        web = parts.parts(home, parts.Ports(0, port, 0))[0]
        child = processes.spawn(web.command, home / "web.log", env=environment | {"OMP_NUM_THREADS": "1"})
        try:
            if not processes.became_ready(child, lambda: responds(port), 60):
                sys.exit(processes.tail(home / "web.log"))
            return measure(Caller(port, owner), Caller(port, stranger), rounds, pairs)
        finally:
            processes.stop(child, (signal.SIGTERM, 10.0))


def unlimited() -> None:
    """Let customers ask as fast as they can."""
    from marketplace.accounts.models import Tier

    Tier.objects.update(requests_minute=10**9, key_requests_minute=10**9, requests_day=10**9)


class Caller:
    """A customer with one kept connection."""

    def __init__(self, port: int, key: str) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        self.headers = {"Authorization": f"Bearer {key}"}

    def ask(
        self, method: str, path: str, body: bytes | None = None, kind: str = "application/json"
    ) -> tuple[int, bytes]:
        headers = self.headers | ({"Content-Type": kind} if body else {})
        self.connection.request(method, path, body, headers)
        answer = self.connection.getresponse()
        return answer.status, answer.read()

    def make(self, path: str, body: bytes, kind: str = "application/json") -> str:
        """Make something by a POST and return its id."""
        status, content = self.ask("POST", path, body, kind)
        if status not in (201, 202):
            raise RuntimeError(f"{path} answered {status}: {content[:500]!r}")
        return str(json.loads(content)["id"])


def measure(owner: Caller, stranger: Caller, rounds: int, pairs: int) -> dict[str, Any]:
    rows = {}
    for name, (theirs, nobodys) in questions(owner).items():
        turn(stranger, theirs, nobodys, 5)  # what is read for the first time is read now
        found = [turn(stranger, theirs, nobodys, pairs) for _ in range(rounds)]
        told = [told_apart(*each) for each in found]
        rows[name] = {
            "another's ms": milliseconds(time for theirs_took, _ in found for time in theirs_took),
            "nobody's ms": milliseconds(time for _, nobodys_took in found for time in nobodys_took),
            "told apart": f"{statistics.median(told):.1%} ({min(told):.1%} to {max(told):.1%})",
        }
    return rows


def questions(owner: Caller) -> dict[str, tuple[Making, Making]]:
    """Return, by name, what makes a question about what the other account has, and one about what nobody has."""
    asked: dict[str, tuple[Making, Making]] = {}
    for path, (method, key) in things(owner).items():
        asked[f"{method} {path}"] = (
            partial(of_id, method, path, lambda key=key: key),
            partial(of_id, method, path, uuid4),
        )
    asked["POST /v1/quotes"] = (lambda: quote(1), lambda: quote(random.randrange(2, 10**9)))
    return asked


def of_id(method: str, path: str, key: Callable[[], object]) -> Question:
    return method, path.format(id=key()), None


def quote(seed: int) -> Question:
    return "POST", "/v1/quotes", order(seed)


def things(owner: Caller) -> dict[str, tuple[str, str]]:
    """Make something of each kind; return, by address, the method that asks for it and its id."""
    job = owner.make("/v1/jobs", order(1))
    file = owner.make("/v1/files", *form(picture()))
    key = owner.make("/v1/keys", b'{"name": "bench"}')
    webhook = owner.make("/v1/webhooks", b'{"url": "https://example.com/hook", "types": ["job.succeeded"]}')
    adapter, top_up = rows_of(owner)
    return {
        "/v1/jobs/{id}": ("GET", job),
        "/v1/jobs/{id}/receipt": ("GET", job),
        "/v1/jobs/{id}/cancel": ("POST", job),
        "/v1/files/{id}": ("GET", file),
        "/v1/files/{id}/content": ("GET", file),
        "/v1/keys/{id}": ("DELETE", key),
        "/v1/webhooks/{id}": ("GET", webhook),
        "/v1/adapters/{id}": ("GET", adapter),
        "/v1/topups/{id}": ("GET", top_up),
    }


def rows_of(owner: Caller) -> tuple[str, str]:
    """Write an adapter and a top-up, which take longer to come about over HTTP; return their ids."""
    from billing import clock
    from billing.models import TopUp
    from billing.prices import packs
    from inference.models import catalog
    from lora import adapters
    from marketplace.identifiers import uuid7

    account, card = json.loads(owner.ask("GET", "/v1/account")[1])["id"], catalog.card()
    made = adapters.create(
        uuid4(), account, slug="bench", name="Bench", base_model=card.name, base_revision=card.revision
    )
    terms = {"pack": packs.offered()[0], "price_minor": 990, "currency": "eur", "order": {}}
    top_up = TopUp.objects.create(id=uuid7(), owner=account, created_at=clock.now(), expires_at=clock.now(), **terms)
    return str(made.id), str(top_up.id)


def order(seed: int) -> bytes:
    return json.dumps(ORDER | {"seed": seed}).encode()


def picture() -> bytes:
    from PIL import Image

    content = io.BytesIO()
    Image.new("RGB", (48, 32), (220, 40, 40)).save(content, "PNG")
    return content.getvalue()


def form(content: bytes) -> tuple[bytes, str]:
    """Return a form with one file, and its media type."""
    head = b'--part\r\nContent-Disposition: form-data; name="file"; filename="red.png"\r\n\r\n'
    return head + content + b"\r\n--part--\r\n", "multipart/form-data; boundary=part"


def turn(stranger: Caller, theirs: Making, nobodys: Making, pairs: int) -> tuple[list[float], list[float]]:
    """Ask both again and again, each pair in random order; return their latencies in seconds."""
    took: tuple[list[float], list[float]] = ([], [])
    for _ in range(pairs):
        status = [0, 0]
        for which in random.sample((0, 1), 2):
            question = (theirs, nobodys)[which]()
            began = time.perf_counter()
            status[which], _ = stranger.ask(*question)
            took[which].append(time.perf_counter() - began)
        if status[0] != status[1]:
            raise RuntimeError(f"what another account has is answered {status[0]}, and what nobody has {status[1]}")
    return took


def told_apart(longer: list[float], shorter: list[float]) -> float:
    """Return the share of all pairs of the two in which the first is longer."""
    return sum(one > other for one in longer for other in shorter) / len(longer) / len(shorter)


def milliseconds(times: Any) -> float:
    return round(1000 * statistics.median(times), 3)


if __name__ == "__main__":
    print(json.dumps(main("--quick" in sys.argv), indent=2))
