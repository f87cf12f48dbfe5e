"""Headers of requests: `Idempotency-Key`, and `Prefer: wait=N`."""

from __future__ import annotations

import re

from rest_framework.request import Request

from marketplace.api.problems import invalid

MAX_WAIT = 60
IDEMPOTENCY_KEY = re.compile(r"[\x21-\x7e]{1,255}")
DESCRIBED_KEY = {"type": "string", "pattern": "^[!-~]+$", "minLength": 1, "maxLength": 255}
PREFER_WAIT = re.compile(r"(?:^|[,;\s])wait=(\d{1,4})(?:$|[,;\s])")


def idempotency_key(request: Request) -> str | None:
    """Return the key, with or without the quotes that a structured header has; None if there is none."""
    key = request.headers.get("Idempotency-Key")
    if key and len(key) > 2 and key[0] == key[-1] == '"':
        key = key[1:-1]
    if key is not None and not IDEMPOTENCY_KEY.fullmatch(key):
        raise invalid("Idempotency-Key", "Must be 1 to 255 visible ASCII characters.")
    return key


def preferred_wait(request: Request) -> int:
    """Return how many seconds to wait, at most 60, by default 0. Unknown preferences are ignored, as RFC 7240 asks."""
    found = PREFER_WAIT.search(request.headers.get("Prefer", ""))
    return min(int(found[1]), MAX_WAIT) if found else 0
