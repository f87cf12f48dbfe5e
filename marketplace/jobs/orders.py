"""A validated order, which the API passes to `submission.submit` and which has a price: no HTTP, no database."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, fields
from typing import Any

from billing.prices import pricing

_canonical = json.JSONEncoder(sort_keys=True).encode


@dataclass(frozen=True, slots=True, kw_only=True)
class JobOrder(pricing.Order):
    """What the customer asked for, defaults filled in; not all of it has a price. `max_cost` is in milli-Tokens."""

    model: str
    negative_prompt: str
    guidance_scale: float
    seed: int | None
    output_format: str
    deterministic: bool = False
    cache: str = "off"
    max_cost: int | None = None
    metadata: dict[str, str] = field(default_factory=dict)

    def digest(self) -> bytes:
        """Return the SHA-256 of the order, by which orders under the same idempotency key are compared."""
        return hashlib.sha256(_canonical({name: getattr(self, name) for name in _SAID}).encode()).digest()

    def picture(self) -> dict[str, Any]:
        """Return the part that the engine needs, as stored on the job."""
        names = ("prompt", "negative_prompt", "width", "height", "steps", "guidance_scale", "deterministic")
        return {name: getattr(self, name) for name in (*names, "output_format", "cache")}


# without `input_pixels`, which follow from the input pictures
_SAID = [each.name for each in fields(JobOrder) if each.name != "input_pixels"]
