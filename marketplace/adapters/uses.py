"""What an order says of an adapter, and what becomes of that. Pure: no HTTP, no database."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from billing.prices.pricing import AdapterTerms
from lora import paths


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a customer says: an adapter's id, or its maker's handle and its slug; no version stands for the newest."""

    id: str = ""
    named: tuple[str, str] | None = None
    version: int | None = None
    scale: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Use(AdapterTerms):
    """A version that an order is drawn with and its terms; its file's SHA-256, and the scale of its changes.

    `asked` is the version that the customer named, if any: the newest may be another one when the order is sent again.
    """

    sha256: str
    scale: float
    asked: int | None = None

    def stored(self) -> dict[str, Any]:
        """Return what is stored of it on the job."""
        return {"id": self.adapter, "version": self.version, "sha256": self.sha256, "scale": self.scale}


def files(order: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the stored paths of the files of a job's adapters, each with its SHA-256."""
    found = order.get("adapters", ())
    return [(paths.ready(each["id"], each["version"], each["sha256"]), each["sha256"]) for each in found]


def scales(order: Mapping[str, Any]) -> list[float]:
    return [each["scale"] for each in order.get("adapters", ())]
