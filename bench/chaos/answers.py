"""Requests to Kiln, repeated until there is a definite answer."""

import json
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from typing import Any
from urllib.parse import urlsplit

from bench.chaos.memory import Memory

PATIENCE_SECONDS = 40.0
BOUNDARY = "a-boundary-of-chaos"
"""Of bodies that are bytes, which are forms."""


class Unanswered(Exception):
    """No answer came, so nobody knows what became of the request."""


@dataclass(frozen=True)
class Answer:
    status: int
    body: Any


class Http:
    """Requests to one server, repeated until there is a definite answer."""

    def __init__(self, url: str, key: str, rng: random.Random, memory: Memory) -> None:
        self.address = urlsplit(url).netloc
        self.key = key
        self.rng = rng
        self.memory = memory

    def once(self, method: str, path: str, body: Any, key: str | None, timeout: float, **more: str) -> Answer:
        connection = HTTPConnection(self.address, timeout=timeout)
        kind = f"multipart/form-data; boundary={BOUNDARY}" if isinstance(body, bytes) else "application/json"
        headers = {"Authorization": f"Bearer {self.key}", "Content-Type": kind}
        try:
            data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
            connection.request(method, path, data, headers | more | ({"Idempotency-Key": key} if key else {}))
            answer = connection.getresponse()
            content = answer.read()
            is_json = (answer.getheader("Content-Type") or "").startswith("application/json")
            return Answer(answer.status, json.loads(content) if is_json else content)
        finally:
            connection.close()

    def ask(self, method: str, path: str, body: Any = None, key: str | None = None, **more: str) -> Answer:
        """Return the first answer that does not ask to try again. Raises Unanswered if none comes in time.

        Some first tries hang up at once. `more` are further headers.
        """
        deadline = time.monotonic() + PATIENCE_SECONDS
        timeout = self.rng.choice([0.003, 0.02]) if key and self.rng.random() < 0.1 else 20.0
        while True:
            try:
                answer = self.once(method, path, body, key, timeout, **more)
                if answer.status < 500 and not is_in_flight(answer):
                    return answer
                last = f"{answer.status} {answer.body}"
                if answer.status == 500:  # whatever is away is a 503
                    self.memory.complain(f"{method} {path} was answered {last}")
                self.memory.count("answers that ask to try again", f"{method} {answer.status}")
            except (OSError, HTTPException, ValueError) as error:
                last = repr(error)
            if time.monotonic() > deadline:
                raise Unanswered(last)
            timeout = 20.0
            time.sleep(0.2)


def is_in_flight(answer: Answer) -> bool:
    return answer.status == 409 and answer.body["error"]["code"] == "idempotency_key_in_flight"


def patiently(verb: Callable[[], Any]) -> Any:
    """Repeat an operator's act until the database has answered; the act must be idempotent."""
    from django.db import OperationalError

    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return verb()
        except OperationalError as error:
            if time.monotonic() > deadline:
                raise Unanswered from error
            time.sleep(0.3)
