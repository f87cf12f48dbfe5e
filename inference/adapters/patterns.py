"""Matches layers' names with regular expressions that nobody vouches for, in linear time.

PEFT takes the keys of its patterns as regular expressions of Python's, whose own matcher needs exponential time for
some. RE2 never does, and what it cannot say, look-around and back references, is refused.
"""

import re
import warnings
from collections.abc import Iterable
from functools import lru_cache

import re2

from inference.adapters.refusals import require, short

MAX_PATTERN = 1000
# characters of all patterns of one field; a plain name for each of the real model's layers takes half of it
MAX_PATTERNS = 65_536


def first(patterns: Iterable[str], name: str) -> str | None:
    """Return the first pattern that matches a name, or all of it after one of its dots, as in PEFT.

    Raises ValueError if a pattern is no regular expression, or one that is not supported.
    """
    return next((pattern for pattern in patterns if _compiled(pattern, r"(.*\.)?({})").fullmatch(name)), None)


def full(pattern: str, name: str) -> bool:
    """Return whether a pattern matches all of a name. Raises ValueError like `first`."""
    return _compiled(pattern, "{}").fullmatch(name) is not None


def check(patterns: Iterable[str]) -> None:
    """Raise ValueError if the patterns of a field have too many characters altogether."""
    require(sum(map(len, patterns)) <= MAX_PATTERNS, f"patterns of more than {MAX_PATTERNS} characters")


@lru_cache(maxsize=4096)
def _compiled(pattern: str, form: str) -> "re2._Regexp":
    require(len(pattern) <= MAX_PATTERN, f"the pattern {short(pattern)} has more than {MAX_PATTERN} characters")
    options = re2.Options()
    options.log_errors = False
    try:
        with warnings.catch_warnings():
            # of sets that mean something else to RE2
            warnings.simplefilter("error")
            re.compile(form.format(pattern))
    except (re.error, OverflowError, RecursionError, FutureWarning, DeprecationWarning) as error:
        raise ValueError(f"the pattern {short(pattern)} is no regular expression") from error
    try:
        return re2.compile(form.format(pattern), options)
    except re2.error as error:
        raise ValueError(f"the pattern {short(pattern)} is not supported: {error}") from error
