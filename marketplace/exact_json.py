"""JSON with one meaning only: no name twice in an object, no NaN, no number of absurd length, not nested too deeply."""

from __future__ import annotations

import json
from typing import Any

MAX_DIGITS = 400


class Decoder(json.JSONDecoder):
    """A decoder for `json.loads(…, cls=Decoder)`, which raises JSONDecodeError for all of these."""

    def __init__(self) -> None:
        super().__init__(object_pairs_hook=_once, parse_constant=_no_constant, parse_int=_whole)

    def decode(self, s: str, *where: Any) -> Any:
        try:
            return super().decode(s, *where)
        except RecursionError as error:
            raise _wrong("it is nested too deeply") from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise _wrong(f"{next(name for name in names if names.count(name) > 1)[:50]!r} is there twice")
    return found


def _no_constant(name: str) -> Any:
    raise _wrong(f"{name} is not JSON")


def _whole(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise _wrong("a number is too long")
    return int(digits)


def _wrong(what: str) -> json.JSONDecodeError:
    return json.JSONDecodeError(what, "", 0)
