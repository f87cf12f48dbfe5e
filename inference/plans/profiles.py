"""Which sizes a plan is made for: a table that an operator may edit (`profiles.toml` is the one that ships)."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from inference.errors import ModelUnavailable

TABLE = Path(__file__).with_name("profiles.toml")
AXES = ("rows", "tokens", "text", "rank")


class Range(NamedTuple):
    """An axis from `least` to `most`; kernels are chosen for what is `usual`."""

    least: int
    usual: int
    most: int


class Profile(NamedTuple):
    """The sizes of a forward that one set of kernels serves."""

    name: str
    rows: Range
    tokens: Range
    text: Range
    rank: Range

    def serves(self, *, tokens: int, text: int, rank: int) -> bool:
        """Return whether there is room for so many tokens of pictures, of the longest text, and so high a rank."""
        return all(
            axis.least <= size <= axis.most
            for axis, size in ((self.tokens, tokens), (self.text, text), (self.rank, rank))
        )

    def at(self, place: str) -> dict[str, int]:
        """Return the size of each axis: `least`, `usual` or `most`."""
        return {axis: getattr(getattr(self, axis), place) for axis in AXES}


def read(path: Path = TABLE) -> tuple[Profile, ...]:
    """Read a table. Raises ModelUnavailable, with the place, if it is not one."""
    try:
        return parse(tomllib.loads(path.read_text()).get("profile"))
    except (OSError, ValueError) as error:
        raise ModelUnavailable(f"{path}: {error}") from error


def parse(rows: Any) -> tuple[Profile, ...]:
    """Return profiles that are given as a list of mappings. Raises ValueError."""
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise ValueError("there is no list of profiles")
    return tuple(_profile(number, row) for number, row in enumerate(rows, 1))


def _profile(number: int, row: Mapping[str, Any]) -> Profile:
    name = row.get("name")
    if not isinstance(name, str) or not name:
        raise ValueError(f"profile {number} needs a name")
    if unknown := row.keys() - {"name", *AXES}:
        raise ValueError(f"profile {name}: unknown {', '.join(sorted(unknown))}")
    return Profile(name, *(_range(name, axis, row.get(axis)) for axis in AXES))


def _range(name: str, axis: str, value: Any) -> Range:
    lowest = 0 if axis == "rank" else 1
    whole = isinstance(value, list | tuple) and len(value) == 3 and all(type(each) is int for each in value)
    if not whole or not lowest <= value[0] <= value[1] <= value[2]:
        raise ValueError(f"profile {name}: {axis} must be three whole numbers from {lowest} that do not fall")
    return Range(*value)
