"""A validated order, which the API passes to `submission.submit` and which has a price: no HTTP, no database."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, fields
from typing import Any

from billing.prices import pricing
from inference.request import steps_due
from marketplace.adapters.uses import Use

_canonical = json.JSONEncoder(sort_keys=True).encode


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """A picture or mask that an order brings: its content's SHA-256, and width and height as it stands upright.

    `file` is the id of the kept file, "" while there is only `content`, its bytes.
    """

    sha256: str
    width: int
    height: int
    file: str = ""
    content: bytes | None = field(default=None, repr=False, compare=False)

    def as_json(self) -> dict[str, Any]:
        """Return what is stored of it on the job."""
        return {"file": self.file, "sha256": self.sha256, "width": self.width, "height": self.height}


@dataclass(frozen=True, slots=True, kw_only=True)
class JobOrder(pricing.Order):
    """What the customer asked for, defaults filled in; not all of it has a price. `max_cost` is in milli-Tokens.

    `images`, `mask`, `strength`, `extend` and `box` mean what they mean to `inference.request.Request`.
    """

    model: str
    negative_prompt: str
    guidance_scale: float
    seed: int | None
    output_format: str
    output_compression: int | None = None
    deterministic: bool = False
    cache: str = "off"
    max_cost: int | None = None
    metadata: dict[str, str] = field(default_factory=dict)
    webhook_url: str | None = None

    adapters: tuple[Use, ...] = ()
    images: tuple[Input, ...] = ()
    mask: Input | None = None
    strength: float = 1.0
    extend: tuple[int, int, int, int] = (0, 0, 0, 0)
    box: tuple[int, int, int, int] | None = None

    @property
    def steps_due(self) -> int:
        """How many of `steps` run: fewer where the picture does not begin from noise alone."""
        return steps_due(self.steps, self.strength)

    @property
    def inputs(self) -> tuple[Input, ...]:
        """All pictures that it brings, the mask last."""
        return (*self.images, self.mask) if self.mask else self.images

    def digest(self) -> bytes:
        """Return the SHA-256 of the order, by which orders under the same idempotency key are compared.

        Input pictures are told by their content: the same one may come by another address, or be another file. Of
        adapters counts the version that was asked for: that of an order which names none is the first one's.
        """
        said = {name: getattr(self, name) for name in _SAID} | self._rarely_said()
        if self.adapters:
            said["adapters"] = [(each.adapter, each.asked, each.scale) for each in self.adapters]
        if self.images:
            said |= self._with_inputs([each.sha256 for each in self.images], self.mask and self.mask.sha256)
        return hashlib.sha256(_canonical(said).encode()).digest()

    def picture(self) -> dict[str, Any]:
        """Return the part that workers need, as stored on the job."""
        names = ("prompt", "negative_prompt", "width", "height", "steps", "guidance_scale", "deterministic")
        wanted = {name: getattr(self, name) for name in (*names, "output_format", "cache")} | self._rarely_said()
        if self.adapters:
            wanted["adapters"] = [each.stored() for each in self.adapters]
        if self.images:
            wanted |= self._with_inputs([each.as_json() for each in self.images], self.mask and self.mask.as_json())
        return wanted

    def _rarely_said(self) -> dict[str, Any]:
        return {name: value for name in ("output_compression", "webhook_url") if (value := getattr(self, name))}

    def _with_inputs(self, images: list[Any], mask: Any) -> dict[str, Any]:
        terms = {"strength": self.strength, "extend": list(self.extend), "box": self.box and list(self.box)}
        return {"images": images, "mask": mask, **terms}


# without what only some orders say, so that the digests of the others stay, and what follows from input pictures
_SOME_SAY = {
    "output_compression",
    "webhook_url",
    "input_pixels",
    "adapters",
    "images",
    "mask",
    "strength",
    "extend",
    "box",
}
_SAID = [each.name for each in fields(JobOrder) if each.name not in _SOME_SAY]
