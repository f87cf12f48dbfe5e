"""A validated order of a training, which the API passes to `submission`: no HTTP, no database."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any
from uuid import UUID

from lora.training_prices import Order


@dataclass(frozen=True, slots=True)
class Picture:
    """A training picture: its file, the SHA-256 of its content, and its captions; an edit has the picture `before`."""

    file: str
    sha256: str
    captions: tuple[str, ...]
    before: str = ""
    before_sha256: str = ""

    @property
    def files(self) -> tuple[UUID, ...]:
        return tuple(UUID(each) for each in (self.file, self.before) if each)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingOrder:
    """What the customer asked for, defaults filled in. `max_cost` is in milli-Tokens, `side` in pixels."""

    tier: str
    pictures: tuple[Picture, ...]
    side: int
    steps: int
    seed: int
    samples: tuple[str, ...] = ()
    keep_pictures: bool = False
    max_cost: int | None = None

    @property
    def priced(self) -> Order:
        """The part that has a price."""
        return Order(len(self.pictures), self.side, self.steps)

    def as_json(self) -> dict[str, Any]:
        """Return what trainers need, as stored."""
        wanted = asdict(self)
        return {name: wanted[name] for name in ("pictures", "side", "steps", "seed", "samples")}


def digest(said: Mapping[str, Any]) -> bytes:
    """Return the SHA-256 of what a customer said, in JSON, by which orders under the same idempotency key are compared.

    What follows from it changes with time: seeds are drawn, files deleted, tiers replaced.
    """
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).digest()
