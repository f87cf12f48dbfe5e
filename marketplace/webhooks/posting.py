"""One attempt: an event's body is signed and posted, and what came back is read no further than needed."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from functools import cache
from http.client import HTTPException, HTTPResponse
from typing import Any

from django.conf import settings

from marketplace.remote import Guard, Unreachable
from marketplace.webhooks import signatures
from marketplace.webhooks.deliveries import Answer
from marketplace.webhooks.models import Delivery, Signed

SECONDS = 15.0
LARGEST = 20_000
READ = 2048
# How long a receiver may ask to be left alone, and how long it is if it does not say.
LONGEST_RETRY_AFTER, RETRY_AFTER = timedelta(hours=1), timedelta(minutes=1)
# Left out one after another until an event is small enough.
LONG = ("negative_prompt", "prompt", "metadata", "receipt", "quote", "timings")


def guard() -> Guard:
    """Return where webhooks may go."""
    return _guard(settings.WEBHOOKS_PRIVATE)


@cache
def _guard(private: bool) -> Guard:
    return Guard(lambda _: True, None, plain=True) if private else Guard()


def body(kind: str, happened_at: datetime, data: dict[str, Any]) -> str:
    """Return an event as JSON of at most 20,000 bytes; `left_out` names what did not fit."""
    shown = dict(data)
    timestamp = happened_at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    for name in ("", *LONG):
        if shown.pop(name, None) is not None:
            shown["left_out"] = [*shown.get("left_out", []), name]
        text = json.dumps({"type": kind, "timestamp": timestamp, "data": shown}, ensure_ascii=False)
        if len(text.encode()) <= LARGEST:
            return text
    raise ValueError(f"an event {kind} is too large")


def post(delivery: Delivery, owner: Signed, url: str, text: str, moment: datetime) -> Answer:
    """Post an event once and return what came of it. `moment` is now, by the database's clock."""
    headers = {
        "Content-Type": "application/json",
        "User-Agent": "Kiln-Webhooks",
        **signatures.headers(owner, delivery.event, text, moment),
    }
    try:
        with guard().connected(url, SECONDS) as (connection, path):
            connection.request("POST", path, text.encode(), headers)
            answer = connection.getresponse()
            return Answer(answer.status, _begun(answer), retry_after=_retry_after(answer.getheader("Retry-After")))
    except Unreachable as error:
        return Answer(error=str(error))


def _begun(answer: HTTPResponse) -> str:
    """Return the beginning of an answer; what is wrong with the rest does not matter."""
    try:
        return answer.read1(READ).decode(errors="replace").replace("\0", "�")
    except (OSError, HTTPException):
        return ""


def _retry_after(header: str | None) -> timedelta:
    if header is not None and header.isascii() and header.isdigit():
        return min(timedelta(seconds=min(int(header[:9]), 10**6)), LONGEST_RETRY_AFTER)
    return RETRY_AFTER
