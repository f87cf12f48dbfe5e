"""Matches layers' names with regular expressions that nobody vouches for, in bounded time.

PEFT takes the keys of its patterns as regular expressions. Python's own matcher needs exponential time for some, so
these run as sets of positions: every part of an expression maps the places where it may begin to those where it may
end, all places at once, as the bits of a number (Thompson 1968, "Regular Expression Search Algorithm"). Look-around,
back references and flags need more than that and are refused.
"""

import re
import string
from collections.abc import Callable, Iterable
from functools import lru_cache
from itertools import groupby
from re import _constants as op  # type: ignore[attr-defined]
from re import _parser  # type: ignore[attr-defined]
from typing import Any, NamedTuple

from inference.adapters.refusals import require, short

MAX_PATTERN = 1000
# of one adapter, over all its layers; a plain name for each of a thousand layers takes one or two million
MAX_STEPS = 3_000_000
_CHARACTERS = frozenset(string.ascii_letters + string.digits + string.punctuation + " ")
_CATEGORIES: dict[Any, Callable[[str], bool]] = {
    op.CATEGORY_DIGIT: str.isdigit,
    op.CATEGORY_NOT_DIGIT: lambda character: not character.isdigit(),
    op.CATEGORY_SPACE: str.isspace,
    op.CATEGORY_NOT_SPACE: lambda character: not character.isspace(),
    op.CATEGORY_WORD: lambda character: character.isalnum() or character == "_",
    op.CATEGORY_NOT_WORD: lambda character: not (character.isalnum() or character == "_"),
}


class _Repeat(NamedTuple):
    """A part `least` to `most` times."""

    least: int
    most: int
    part: "_Sequence"


class _Branch(NamedTuple):
    """One of several."""

    choices: "tuple[_Sequence, ...]"


class _Edge(NamedTuple):
    """Nothing, at the name's beginning or at its end."""

    beginning: bool


# one of some characters, a text, and so on
_Part = frozenset[str] | str | _Repeat | _Branch | _Edge
_Sequence = tuple[_Part, ...]


class Matcher:
    """Matches patterns with names, in at most MAX_STEPS steps altogether."""

    def __init__(self) -> None:
        self._left = MAX_STEPS

    def first(self, patterns: Iterable[str], name: str) -> str | None:
        """Return the first pattern that matches a name, or all of it after one of its dots, as in PEFT.

        Raises ValueError if a pattern is no regular expression, or one that is not supported, or if it takes too long.
        """
        after_dots = 1 | _places(frozenset("."), name) << 1
        return next((pattern for pattern in patterns if self._matches(pattern, name, after_dots)), None)

    def full(self, pattern: str, name: str) -> bool:
        """Return whether a pattern matches all of a name. Raises ValueError like `first`."""
        return self._matches(pattern, name, 1)

    def _matches(self, pattern: str, name: str, starts: int) -> bool:
        return bool(self._run(_compiled(pattern), name, starts) >> len(name))

    def _run(self, parts: _Sequence, name: str, starts: int) -> int:
        """Return where the parts may end that begin at `starts`: bit n is the place before the n-th character."""
        for part in parts:
            if not starts:
                return 0
            self._left -= 1
            require(self._left > 0, "the patterns in the configuration take too long")
            match part:
                case frozenset():
                    starts = (starts & _places(part, name)) << 1
                case str():
                    starts = (starts & _places_of_text(part, name)) << len(part)
                case _Repeat():
                    starts = self._repeat(part, name, starts)
                case _Branch(choices):
                    begun, starts = starts, 0
                    for choice in choices:
                        starts |= self._run(choice, name, begun)
                case _Edge(beginning):
                    starts &= 1 if beginning else 1 << len(name)
        return starts

    def _repeat(self, part: _Repeat, name: str, starts: int) -> int:
        enough = len(name) + 1  # so many rounds reach all that any more would
        for _ in range(min(part.least, enough)):
            starts = self._run(part.part, name, starts)
        ends = added = starts
        for _ in range(min(part.most - part.least, enough)):
            if not added:
                break
            added = self._run(part.part, name, added) & ~ends
            ends |= added
        return ends


@lru_cache(maxsize=65_536)
def _places(characters: frozenset[str], name: str) -> int:
    return sum(1 << place for place, character in enumerate(name) if character in characters)


@lru_cache(maxsize=65_536)
def _places_of_text(text: str, name: str) -> int:
    return sum(1 << place for place in range(len(name)) if name.startswith(text, place))


@lru_cache(maxsize=4096)
def _compiled(pattern: str) -> _Sequence:
    require(len(pattern) <= MAX_PATTERN, f"the pattern {short(pattern)} has more than {MAX_PATTERN} characters")
    try:
        parsed = _parser.parse(pattern)
    except (re.error, OverflowError) as error:
        raise ValueError(f"the pattern {short(pattern)} is no regular expression") from error
    require(not parsed.state.flags & ~re.UNICODE, f"the pattern {short(pattern)} has flags, which are not supported")
    try:
        return _sequence(parsed)
    except KeyError as error:
        raise ValueError(
            f"the pattern {short(pattern)} has {str(error.args[0]).lower()}, which is not supported"
        ) from None


def _sequence(parsed: Iterable[tuple[Any, Any]]) -> _Sequence:
    """Translate parts that follow each other, characters that stand for themselves as one text."""
    parts: list[_Part] = []
    for is_text, neighbours in groupby(parsed, lambda each: each[0] is op.LITERAL):
        group = list(neighbours)
        parts += ["".join(chr(value) for _, value in group)] if is_text else [_part(*each) for each in group]
    return tuple(parts)


def _part(kind: Any, value: Any) -> _Part:
    """Translate a part of an expression that Python has parsed. Raises KeyError with its kind if it is another."""
    if kind in (op.MAX_REPEAT, op.MIN_REPEAT):
        return _Repeat(int(value[0]), int(value[1]), _sequence(value[2]))
    if kind is op.BRANCH:
        return _Branch(tuple(map(_sequence, value[1])))
    if kind is op.SUBPATTERN and not value[1] and not value[2]:
        return _Branch((_sequence(value[3]),))
    if kind is op.AT and value in (op.AT_BEGINNING, op.AT_BEGINNING_STRING, op.AT_END, op.AT_END_STRING):
        return _Edge(value in (op.AT_BEGINNING, op.AT_BEGINNING_STRING))
    if kind is op.ANY:
        return _CHARACTERS
    accepted = [_accepts(*each) for each in (value if kind is op.IN else [(kind, value)])]
    found = frozenset(character for character in _CHARACTERS if any(accepts(character) for accepts in accepted))
    return _CHARACTERS - found if kind is op.IN and value[0][0] is op.NEGATE else found


def _accepts(kind: Any, value: Any) -> Callable[[str], bool]:
    """Return which characters a member of a set stands for. Raises KeyError with its kind if it is something else."""
    if kind is op.NEGATE:
        return lambda character: False
    if kind is op.CATEGORY:
        return _CATEGORIES[value]
    if kind is op.RANGE:
        return lambda character: value[0] <= ord(character) <= value[1]
    if kind not in (op.LITERAL, op.NOT_LITERAL):
        raise KeyError(kind)
    return lambda character: (ord(character) == value) is (kind is op.LITERAL)
