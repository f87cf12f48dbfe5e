"""Refuses what a file says, in a sentence that names it: ValueErrors, which `files` makes AdapterUnavailable."""

from typing import Any


def require(condition: bool, otherwise: str) -> None:
    """Raise ValueError with the sentence unless the condition holds."""
    if not condition:
        raise ValueError(otherwise)


def short(text: str) -> str:
    """Quote what a stranger wrote, at most 100 characters of it."""
    return repr(text if len(text) <= 100 else f"{text[:100]}…")


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object, as the `object_pairs_hook` of `json.loads`. Raises ValueError if a name is there twice."""
    values: dict[str, Any] = {}
    for name, value in pairs:
        require(name not in values, f"{short(name)} is there twice")
        values[name] = value
    return values
