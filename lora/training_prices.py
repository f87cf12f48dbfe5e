"""The price of a training: the formula, and nothing else. Pure: no Django, no database, no clock.

    total = base_cost x max(side², floor)/1024² x steps/1000

Amounts are integer milli-Tokens. The product is formed whole and rounded up once. What a tier allows and costs is in
its `Terms`; storing and publishing these is `tiers`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from billing.amounts import format_fraction, format_tokens, parse_tokens
from lora.errors import OutsideTier

FULL_PIXELS = 1024 * 1024
FULL_STEPS = 1000
LEAST_PICTURES = 4
# Which layers of the model an adapter changes, in the trainer's words.
LAYERS = ("attention", "all")
TEXTS = ("service_class", "layers")


@dataclass(frozen=True, slots=True)
class Terms:
    """What one version of a tier costs and allows.

    `base_cost` is in milli-Tokens for 1,000 steps at 1024²; `floor` is the area in pixels below which a training costs
    no less; `surcharge` is in thousandths of the price of a picture drawn with the adapter. `layers` are those that are
    trained: fewer are sooner trained, and change less.
    """

    base_cost: int
    floor: int
    most_pictures: int
    side: int
    rank: int
    most_steps: int
    versions_kept: int
    service_class: str
    may_publish: bool
    surcharge: int
    layers: str = "all"

    def __post_init__(self) -> None:
        for each in fields(self):
            value, least = getattr(self, each.name), 0 if each.name in ("floor", "surcharge") else 1
            if each.name not in (*TEXTS, "may_publish"):
                _whole(each.name, value, least)
        if self.most_pictures < LEAST_PICTURES:
            raise ValueError(f"most_pictures must be at least {LEAST_PICTURES}")
        if self.rank > 256:
            raise ValueError("rank must be at most 256")
        if self.layers not in LAYERS:
            raise ValueError(f"layers must be one of {', '.join(LAYERS)}, not {self.layers!r}")


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be trained: so many `pictures`, at about `side`² pixels, for so many `steps`."""

    pictures: int
    side: int
    steps: int


@dataclass(frozen=True)
class Quote:
    """A fixed price in milli-Tokens, stored with the training; the product of `factors`, rounded up, is the total."""

    total: int
    steps: int
    tier: str
    factors: Mapping[str, str]

    def as_json(self) -> dict[str, Any]:
        """Return the quote as JSON, with amounts as decimal strings of Tokens."""
        return asdict(self) | {"total": format_tokens(self.total), "factors": dict(self.factors)}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Quote:
        """Return the quote that `as_json` wrote."""
        return cls(parse_tokens(stored["total"]), stored["steps"], stored["tier"], dict(stored["factors"]))


def quote(order: Order, tier: str, terms: Terms) -> Quote:
    """Return the price of a training in the tier of this name. Raises OutsideTier if the tier does not allow it."""
    for name, value, least, most in (
        ("pictures", order.pictures, LEAST_PICTURES, terms.most_pictures),
        ("side", order.side, 1, terms.side),
        ("steps", order.steps, 1, terms.most_steps),
    ):
        _whole(name, value, least=0)
        if not least <= value <= most:
            raise OutsideTier(name, least, most)
    pixels = max(order.side**2, terms.floor)
    return Quote(
        total=-(-terms.base_cost * pixels * order.steps // (FULL_PIXELS * FULL_STEPS)),
        steps=order.steps,
        tier=tier,
        factors={
            "base_cost": format_tokens(terms.base_cost),
            "resolution": format_fraction(pixels * 10**20 // FULL_PIXELS, 20),
            "steps": format_fraction(order.steps, 3),
        },
    )


def charge(quoted: Quote, steps_done: int) -> int:
    """Return the milli-Tokens for a training that ended after so many steps; never more than was quoted.

    The share of one that was canceled is rounded down: a fraction is never decided against the customer.
    """
    _whole("steps_done", steps_done, least=0)
    return quoted.total * min(steps_done, quoted.steps) // quoted.steps


def _whole(name: str, value: Any, least: int) -> None:
    if type(value) is not int or value < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, not {value!r}")
