"""A validated order, as the API hands it to `lifecycle.submit`: immutable, no HTTP, no database."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, fields
from typing import Any

from billing.prices import pricing

_canonical = json.JSONEncoder(sort_keys=True).encode


@dataclass(frozen=True, slots=True)
class JobOrder:
    """What the customer asked for, defaults filled in. `max_cost` is in milli-Tokens."""

    operation: str
    model: str
    prompt: str
    negative_prompt: str
    width: int
    height: int
    steps: int
    guidance_scale: float
    seed: int | None
    n: int
    service_class: str
    output_format: str
    deterministic: bool = False
    cache: str = "off"
    max_cost: int | None = None
    metadata: dict[str, str] = field(default_factory=dict)

    def for_pricing(self) -> pricing.Order:
        return pricing.Order(
            operation=self.operation,
            width=self.width,
            height=self.height,
            steps=self.steps,
            prompt=self.prompt,
            n=self.n,
            service_class=self.service_class,
        )

    def digest(self) -> bytes:
        """SHA-256 of the order, by which a repeated idempotency key is compared."""
        body = {item.name: getattr(self, item.name) for item in fields(self)}
        return hashlib.sha256(_canonical(body).encode()).digest()

    def picture(self) -> dict[str, Any]:
        """The part that the engine needs, as stored on the job."""
        names = ("prompt", "negative_prompt", "width", "height", "steps", "guidance_scale", "deterministic")
        return {name: getattr(self, name) for name in (*names, "output_format", "cache")}
