"""`make demo`: over HTTP, from a stack of its own, one customer tops up by card and buys one picture.

Not a client library.
"""

import hashlib
import json
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from decimal import Decimal
from pathlib import Path
from typing import Any

from devstack import processes, servers
from devstack.interrupts import Interrupted, Interrupts
from devstack.processes import LocalError
from devstack.stack import Stack
from marketplace.addresses import ROOT

ORDER = {
    "prompt": "a red circle on a white background",
    "width": 128,
    "height": 128,
    "steps": 20,
    "seed": 7,
}
CARD = {"email": "demo@example.com", "name": "Demo", "number": "4242424242424242", "expiry": "12/34"}
WAIT_SECONDS = 10
PAYMENT_SECONDS = 30.0
JOB_SECONDS = 300.0
FINAL = {"succeeded", "failed", "canceled"}

Json = dict[str, Any]


class DemoFailed(Exception):
    """What the demo saw is not what Kiln promises."""


class Client:
    """A customer's HTTP client: an API key, JSON in, JSON out."""

    def __init__(self, url: str, key: str) -> None:
        self.url = url
        self.key = key

    def call(self, method: str, path: str, body: Json | None = None, **headers: str) -> Json:
        """The answer's body. Raises DemoFailed with the answer where it is an error."""
        names = {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"} | {
            name.replace("_", "-"): value for name, value in headers.items()
        }
        data = json.dumps(body).encode() if body is not None else None
        request = urllib.request.Request(f"{self.url}{path}", data, names, method=method)
        answer: Json = json.loads(_fetch(request))
        return answer


def main() -> int:
    """Run the demo; 0 when every promise was kept."""
    try:
        with servers.temporary_home() as home:
            _say("starting a stack of its own")
            with Stack(home, processes.free_port(), Interrupts(), _say, durable=False) as stack:
                picture = _bought(stack)
    except Interrupted:
        _say("stopped")
        return 130
    except (LocalError, DemoFailed) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    _say(f"picture: {picture}")
    return 0


def _bought(stack: Stack) -> Path:
    try:
        return _buy(stack)
    except DemoFailed as error:
        raise DemoFailed(f"{error}\n{stack.last_lines('web')}\n{stack.last_lines('worker')}") from None


def _buy(stack: Stack) -> Path:
    key = stack.manage("create_customer", "demo@example.com")[-1]
    stack.wait_ready()
    _say(f"ready at {stack.url}\n\na customer without Tokens: demo@example.com")
    client = Client(stack.url, key)
    _top_up(stack, client)
    before = _wallet(client, "wallet before")
    quote = client.call("POST", "/v1/quotes", ORDER)
    _tell_quote(quote)
    job = _fire(stack, client)
    picture = _download(job)
    _tell_receipt(job)
    after = _wallet(client, "wallet after")
    _require(before - Decimal(job["cost"]["captured"]) == after, "before − captured = after")
    _require(Decimal(job["cost"]["quoted"]) == Decimal(quote["total"]), "the job costs what was quoted")
    _say(f"\n{stack.manage('check_ledger')[-1]}")
    return picture


def _top_up(stack: Stack, client: Client) -> None:
    """Buy the first pack on Stripe's page, as a browser would, and wait until its webhook has brought the Tokens."""
    pack = client.call("GET", "/v1/packs")["data"][0]
    order = {"pack": pack["name"], "currency": "eur"}
    top_up = client.call("POST", "/v1/topups", order, Idempotency_Key=str(uuid.uuid4()))
    _say(f"\ntopping up: {pack['tokens']} Tokens for {top_up['price']} EUR, by card at {top_up['url']}")
    _fetch(urllib.request.Request(top_up["url"], urllib.parse.urlencode(CARD).encode()))
    deadline = time.monotonic() + PAYMENT_SECONDS
    while top_up["status"] != "paid":
        stack.check()
        _require(time.monotonic() < deadline, f"Tokens within {PAYMENT_SECONDS:.0f} s; {top_up['status']}")
        time.sleep(0.1)
        top_up = client.call("GET", f"/v1/topups/{top_up['id']}")
    _say(f"  {top_up['status']}: Stripe's webhook has brought the Tokens")


def _fire(stack: Stack, client: Client) -> Json:
    """Order the picture and wait until its job has ended."""
    _say(f"\nordering: {ORDER['prompt']!r}")
    deadline = time.monotonic() + JOB_SECONDS
    wait = {"Idempotency_Key": str(uuid.uuid4()), "Prefer": f"wait={WAIT_SECONDS}"}
    job = client.call("POST", "/v1/jobs", ORDER, **wait)
    while job["status"] not in FINAL:
        stack.check()
        _require(time.monotonic() < deadline, f"a picture within {JOB_SECONDS:.0f} s")
        _say(f"  {job['status']}, step {job['progress']['step']} of {job['progress']['steps']}")
        time.sleep(1)
        job = client.call("GET", f"/v1/jobs/{job['id']}")
    _require(job["status"] == "succeeded", f"a picture; the job is {job['status']}: {job['error']}")
    return job


def _download(job: Json) -> Path:
    image = job["images"][0]
    data = _fetch(urllib.request.Request(image["url"]))
    _require(hashlib.sha256(data).hexdigest() == image["sha256"], "the picture whose digest the job names")
    picture = ROOT / "out" / "demo.png"
    picture.parent.mkdir(exist_ok=True)
    picture.write_bytes(data)
    _say(f"  {job['status']}: {image['width']}×{image['height']}, {len(data)} bytes")
    return picture


def _fetch(request: urllib.request.Request) -> bytes:
    try:
        with urllib.request.urlopen(request, timeout=WAIT_SECONDS + 50) as answer:
            body: bytes = answer.read()
            return body
    except urllib.error.HTTPError as refusal:
        said = refusal.read(2000).decode(errors="replace")
        raise DemoFailed(f"{request.method} {request.full_url} answered {refusal.code}: {said}") from None
    except OSError as error:
        raise DemoFailed(f"{request.method} {request.full_url}: {error}") from None


def _wallet(client: Client, title: str) -> Decimal:
    balance = client.call("GET", "/v1/balance")
    _say(f"\n{title}\n  available {balance['available']:>12} Tokens\n  held      {balance['held']:>12} Tokens")
    return Decimal(balance["available"])


def _tell_quote(quote: Json) -> None:
    lines = [f"  {name:<13} × {value}" for name, value in quote["factors"].items()]
    _say("\n".join(["\nquote", *lines, f"  {'total':<13} = {quote['total']} Tokens"]))
    _say(f"  {'price list':<13}   version {quote['price_list']}")


def _tell_receipt(job: Json) -> None:
    cost, progress = job["cost"], job["progress"]
    lines = [f"  {name:<13} {cost[name]:>12} Tokens" for name in ("quoted", "held", "captured", "released")]
    _say("\n".join(["\nreceipt", f"  {'job':<13} {job['id']}", *lines]))
    _say(f"  {'steps':<13} {progress['step']:>12} of {progress['steps']}")


def _require(kept: bool, promise: str) -> None:
    if not kept:
        raise DemoFailed(f"expected: {promise}")


def _say(text: str) -> None:
    print(text, flush=True)
