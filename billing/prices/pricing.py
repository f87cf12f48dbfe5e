"""The price of a job: the formula, and nothing else. Pure: no Django, no database, no clock.

    unit = base_cost x pixels/1024² x steps/50 x √(max(L, floor)/100) x service class x operation x adapters

where adapters = 1 + the surcharge and the fee of each, and makers get their shares of the fees (`shares`).

Amounts are integer milli-Tokens, factors integer thousandths. The whole product is squared, so that the root is one
of integers, where `math.isqrt` is exact. No binary or decimal fraction is ever formed, and neither locale nor Decimal
context can change a price. It is rounded up once, per picture.
Not for moving Tokens (wallets) or for storing price lists (price_lists).
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from math import isqrt
from typing import Any

from billing.amounts import MILLI, format_fraction, format_tokens, parse_tokens
from billing.errors import NotPriced, UnknownOperation, UnknownServiceClass

FULL_PIXELS = 1024 * 1024
FULL_STEPS = 50


def prompt_length(prompt: str) -> int:
    """Return how many code points the prompt has, NFC-normalised and stripped, as customers can count them."""
    return len(unicodedata.normalize("NFC", prompt).strip())


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterTerms:
    """What a version of an adapter adds to a picture's price, in thousandths of the price without adapters.

    All of `surcharge` is the platform's, and of `fee` all but `share` thousandths, which are the maker's.
    """

    adapter: str
    version: int
    surcharge: int = 0
    fee: int = 0
    share: int = 0
    maker: str = ""

    def __post_init__(self) -> None:
        for name in ("surcharge", "fee", "share"):
            _whole(name, getattr(self, name), least=0)
        if self.share > MILLI:
            raise ValueError("a maker's share is at most the whole fee")

    def as_json(self) -> dict[str, Any]:
        return {
            "adapter": self.adapter,
            "version": self.version,
            "surcharge": format_fraction(self.surcharge, 3),
            "fee": format_fraction(self.fee, 3),
            "share": format_fraction(self.share, 3),
            "maker": self.maker,
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> AdapterTerms:
        rates = {name: parse_tokens(stored[name]) for name in ("surcharge", "fee", "share")}
        return cls(adapter=stored["adapter"], version=stored["version"], maker=stored["maker"], **rates)


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be priced. Sizes are in pixels; `input_pixels` is the area of what the model sees besides."""

    operation: str
    width: int
    height: int
    steps: int
    prompt: str
    n: int = 1
    service_class: str = "standard"
    input_pixels: int = 0
    adapters: Sequence[AdapterTerms] = ()

    def __post_init__(self) -> None:
        for name in ("width", "height", "steps", "n"):
            _whole(name, getattr(self, name), least=1)
        _whole("input_pixels", self.input_pixels, least=0)

    @property
    def steps_due(self) -> int:
        """How many of `steps` are to run and to be paid."""
        return self.steps


@dataclass(frozen=True)
class PriceList:
    """One immutable version of the prices.

    `base_cost` is in milli-Tokens, every factor in thousandths, `prompt_floor` in code points;
    `skipped_step` is what a step taken from the cache costs, in thousandths of a step that was run.
    """

    version: int
    base_cost: int
    prompt_floor: int
    service_classes: Mapping[str, int]
    operations: Mapping[str, int]
    skipped_step: int

    def __post_init__(self) -> None:
        for name in ("version", "base_cost", "prompt_floor"):
            _whole(name, getattr(self, name), least=1)
        for name, factors in (("service_classes", self.service_classes), ("operations", self.operations)):
            if not factors:
                raise ValueError(f"{name} is empty")
            for key, factor in factors.items():
                _whole(f"{name}[{key!r}]", factor, least=1)
        _whole("skipped_step", self.skipped_step, least=0)
        if self.skipped_step > MILLI:
            raise ValueError("a skipped step may not cost more than one that was run")


@dataclass(frozen=True)
class Quote:
    """A fixed price: stored on the job and never computed again.

    `total` and `unit` (one picture) are in milli-Tokens, `price_list` is a version, `skipped_step` in thousandths.
    `factors` are decimal strings whose product, rounded up per picture, is the total; of these only "prompt" is
    itself cut, to six decimals. `adapters` are the terms of the adapters that it is drawn with.
    """

    total: int
    unit: int
    n: int
    steps: int
    price_list: int
    skipped_step: int
    factors: Mapping[str, str]
    adapters: Sequence[AdapterTerms] = ()

    def as_json(self) -> dict[str, Any]:
        """Return the quote as JSON, with amounts as decimal strings of Tokens."""
        stored: dict[str, Any] = {
            "total": format_tokens(self.total),
            "unit": format_tokens(self.unit),
            "n": self.n,
            "steps": self.steps,
            "price_list": self.price_list,
            "skipped_step": format_fraction(self.skipped_step, 3),
            "factors": dict(self.factors),
        }
        if self.adapters:
            stored["adapters"] = [each.as_json() for each in self.adapters]
        return stored

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Quote:
        """Return the quote that `as_json` wrote. Raises KeyError or ValueError if it is anything else."""
        return cls(
            total=parse_tokens(stored["total"]),
            unit=parse_tokens(stored["unit"]),
            n=stored["n"],
            steps=stored["steps"],
            price_list=stored["price_list"],
            skipped_step=parse_tokens(stored["skipped_step"]),
            factors=dict(stored["factors"]),
            adapters=tuple(AdapterTerms.from_json(each) for each in stored.get("adapters", ())),
        )


@dataclass(frozen=True)
class ImageOutcome:
    """How one picture of a job ended; the steps are those of the attempt that delivered it."""

    delivered: bool
    steps_run: int
    steps_skipped: int = 0


def quote(order: Order, price_list: PriceList) -> Quote:
    """Return the price of `order`. Raises UnknownOperation or UnknownServiceClass if the list has no factor for it."""
    service_class = _factor(price_list.service_classes, order.service_class, UnknownServiceClass)
    operation = _factor(price_list.operations, order.operation, UnknownOperation)
    length = max(prompt_length(order.prompt), price_list.prompt_floor)
    pixels = order.width * order.height + order.input_pixels
    adapters = _adapters_factor(order.adapters)
    linear = price_list.base_cost * pixels * order.steps_due * service_class * operation * adapters
    # The ten is there because √(length/100) = √length / 10.
    unit = _ceil_div(_ceil_sqrt(linear * linear * length), FULL_PIXELS * FULL_STEPS * MILLI**3 * 10)
    return Quote(
        total=order.n * unit,
        unit=unit,
        n=order.n,
        steps=order.steps_due,
        price_list=price_list.version,
        skipped_step=price_list.skipped_step,
        factors={
            "base_cost": format_tokens(price_list.base_cost),
            "resolution": format_fraction(pixels * 10**20 // FULL_PIXELS, 20),
            "steps": format_fraction(order.steps_due * 100 // FULL_STEPS, 2),
            "prompt": f"{isqrt(length * 10**10) // 10**6}.{isqrt(length * 10**10) % 10**6:06d}",
            "service_class": format_fraction(service_class, 3),
            "operation": format_fraction(operation, 3),
            **({"adapters": format_fraction(adapters, 3)} if order.adapters else {}),
            "n": str(order.n),
        },
        adapters=tuple(_terms(each) for each in order.adapters),
    )


def charge(quoted: Quote, outcomes: Sequence[ImageOutcome]) -> int:
    """Return the milli-Tokens for a job that ended: the pictures delivered, less the discount for skipped steps.

    Pictures without an outcome count as not delivered. It is at most `quoted.total`; 0 means: release the hold.
    Raises ValueError if there are more pictures than quoted, or more steps than a picture has.
    """
    if len(outcomes) > quoted.n:
        raise ValueError(f"{len(outcomes)} outcomes for {quoted.n} pictures")
    return sum(_picture(quoted, outcome) for outcome in outcomes)


def charge_canceled(quoted: Quote, outcomes: Sequence[ImageOutcome]) -> int:
    """Return the milli-Tokens for a running job that was canceled: the pictures delivered, and the steps of the others.

    A picture that was finished costs what `charge` says. The share of steps done of one that was not is rounded down:
    it is not handed over, so a fraction is never decided against the customer. Raises ValueError as `charge` does.
    """
    unfinished = [outcome.steps_run for outcome in outcomes if not outcome.delivered]
    return charge(quoted, outcomes) + sum(quoted.unit * done // quoted.steps for done in unfinished)


def shares(quoted: Quote, charge: int) -> dict[str, int]:
    """Return the milli-Tokens of a charge that each maker gets, rounded down; the platform gets what remains."""
    whole = _adapters_factor(quoted.adapters) * MILLI
    split: dict[str, int] = {}
    for terms in quoted.adapters:
        if part := charge * terms.fee * terms.share // whole:
            split[terms.maker] = split.get(terms.maker, 0) + part
    return split


def _adapters_factor(adapters: Sequence[AdapterTerms]) -> int:
    return MILLI + sum(each.surcharge + each.fee for each in adapters)


def _terms(each: AdapterTerms) -> AdapterTerms:
    """Return the terms alone, of what may be more than that."""
    return AdapterTerms(**{name.name: getattr(each, name.name) for name in fields(AdapterTerms)})


def _picture(quoted: Quote, outcome: ImageOutcome) -> int:
    _whole("steps_run", outcome.steps_run, least=0)
    _whole("steps_skipped", outcome.steps_skipped, least=0)
    _steps(quoted, outcome.steps_run + outcome.steps_skipped)
    if not outcome.delivered:
        return 0
    saved = quoted.unit * outcome.steps_skipped * (MILLI - quoted.skipped_step)
    return quoted.unit - saved // (quoted.steps * MILLI)


def _steps(quoted: Quote, steps: int) -> None:
    _whole("steps", steps, least=0)
    if steps > quoted.steps:
        raise ValueError(f"{steps} steps of {quoted.steps}")


def _factor(factors: Mapping[str, int], name: str, missing: type[NotPriced]) -> int:
    if name not in factors:
        raise missing(name)
    return factors[name]


def _whole(name: str, value: int, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be an int, not {type(value).__name__}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, not {value}")


def _ceil_div(numerator: int, denominator: int) -> int:
    return -(-numerator // denominator)


def _ceil_sqrt(square: int) -> int:
    return isqrt(square - 1) + 1
