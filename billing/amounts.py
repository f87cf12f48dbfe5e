"""Amounts as people write them: converts Tokens and money to text and back. Pure: no Django, no database.

Internally, Tokens are integer milli-Tokens and money is an integer in the currency's smallest unit (`_minor`).
"""

from __future__ import annotations

import re
from functools import lru_cache

from billing.currencies import decimals

MILLI = 1000
# The largest number that PostgreSQL's bigint stores.
LARGEST = 2**63 - 1
# At most 15 digits before the point, so that every amount fits PostgreSQL's bigint.
TOKENS = re.compile(r"(0|[1-9][0-9]{0,14})(?:\.([0-9]{1,3}))?")


def format_tokens(milli: int) -> str:
    """Return milli-Tokens as a decimal string of Tokens: 13417 is "13.417", 15000 is "15", -500 is "-0.5"."""
    if not isinstance(milli, int) or isinstance(milli, bool):
        raise TypeError(f"milli must be an int, not {type(milli).__name__}")
    return _formatted(milli)


@lru_cache(maxsize=4096)  # an order writes the same few amounts again and again
def _formatted(milli: int) -> str:
    return ("-" if milli < 0 else "") + format_fraction(abs(milli), 3)


def parse_tokens(text: str) -> int:
    """Return the milli-Tokens of a plain decimal string of Tokens.

    Raises ValueError for anything else: signs, exponents, spaces, leading zeros, digits that are not ASCII, more than
    three decimals, more than fifteen digits before the point, or a value that is not a string.
    """
    match = TOKENS.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise ValueError(f"not an amount of Tokens: {text!r}")
    return int(match[1]) * MILLI + int((match[2] or "").ljust(3, "0"))


def show_tokens(milli: int) -> str:
    """Return a non-negative number of milli-Tokens as people read it: 1234567 is "1,234.567 Tokens"."""
    whole, point, rest = format_tokens(milli).partition(".")
    return f"{int(whole):,}{point}{rest} Tokens"


def format_money(amount_minor: int, currency: str) -> str:
    """Return an amount in the currency's smallest unit as a decimal: 1990, "eur" is "19.90"; -700, "jpy" is "-700"."""
    places = decimals(currency)
    whole, rest = divmod(abs(amount_minor), 10**places)
    return ("-" if amount_minor < 0 else "") + (f"{whole}.{rest:0{places}}" if places else str(whole))


def show_money(amount_minor: int, currency: str) -> str:
    """Return an amount in the currency's smallest unit as people read it: 1990, "eur" is "19.90 EUR"."""
    return f"{format_money(amount_minor, currency)} {currency.upper()}"


def parse_money(text: str, currency: str) -> int:
    """Return a decimal amount in the currency's smallest unit: "19.9" in "eur" is 1990.

    Raises ValueError if it is not above 0 or has more decimals than the currency.
    """
    found = re.fullmatch(r"(0|[1-9][0-9]{0,8})(?:\.([0-9]{1,3}))?", text)
    places = decimals(currency)
    rest = (found[2] or "") if found else ""
    if found is None or len(rest) > places or not (amount := int(found[1] + rest.ljust(places, "0"))):
        raise ValueError(f"an amount must be above 0 and have at most {places} decimals")
    return amount


def format_fraction(value: int, places: int) -> str:
    """Return a whole number of 10**-places as a decimal: 1500, 3 is "1.5"."""
    whole, rest = divmod(value, 10**places)
    return f"{whole}.{rest:0{places}d}".rstrip("0").rstrip(".")
