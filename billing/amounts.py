"""Amounts as people write them: Tokens and money, as text and back. Pure: no Django, no database.

Inside, Tokens are integer milli-Tokens and money is an integer of the currency's smallest unit (`_minor`).
"""

from __future__ import annotations

import re

MILLI = 1000
# What PostgreSQL's bigint stores.
LARGEST = 2**63 - 1
# 15 digits before the point keep every amount inside PostgreSQL's bigint.
TOKENS = re.compile(r"(0|[1-9][0-9]{0,14})(?:\.([0-9]{1,3}))?")
# Currencies whose smallest unit, as Stripe counts, is not a hundredth.
WHOLE = {"bif", "clp", "djf", "gnf", "jpy", "kmf", "krw", "mga", "pyg", "rwf", "vnd", "vuv", "xaf", "xof", "xpf"}
THOUSANDTHS = {"bhd", "jod", "kwd", "omr", "tnd"}


def format_tokens(milli: int) -> str:
    """Milli-Tokens as a decimal string of Tokens: 13417 is "13.417", 15000 is "15", -500 is "-0.5"."""
    if not isinstance(milli, int) or isinstance(milli, bool):
        raise TypeError(f"milli must be an int, not {type(milli).__name__}")
    return ("-" if milli < 0 else "") + format_fraction(abs(milli), 3)


def parse_tokens(text: str) -> int:
    """Milli-Tokens from a plain decimal string of Tokens.

    ValueError for anything else: signs, exponents, spaces, leading zeros, digits that are not ASCII,
    more than three decimals, more than fifteen digits before the point, or a value that is no string.
    """
    match = TOKENS.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise ValueError(f"not an amount of Tokens: {text!r}")
    return int(match[1]) * MILLI + int((match[2] or "").ljust(3, "0"))


def show_tokens(milli: int) -> str:
    """An amount that is never negative, for people: 1234567 is "1,234.567 Tokens"."""
    whole, point, rest = format_tokens(milli).partition(".")
    return f"{int(whole):,}{point}{rest} Tokens"


def format_money(amount_minor: int, currency: str) -> str:
    """1990, "eur" → "19.90"."""
    decimals = 0 if currency in WHOLE else 3 if currency in THOUSANDTHS else 2
    whole, rest = divmod(amount_minor, 10**decimals)
    return f"{whole}.{rest:0{decimals}}" if decimals else str(whole)


def show_money(amount_minor: int, currency: str) -> str:
    """1990, "eur" → "19.90 EUR", for people."""
    return f"{format_money(amount_minor, currency)} {currency.upper()}"


def parse_money(text: str, currency: str) -> int:
    """ "19.9", "eur" → 1990; ValueError for anything but a positive amount in whole smallest units."""
    found = re.fullmatch(r"(\d{1,9})(?:\.(\d{1,3}))?", text)
    decimals = 0 if currency in WHOLE else 3 if currency in THOUSANDTHS else 2
    rest = (found[2] or "") if found else ""
    if found is None or len(rest) > decimals or not (amount := int(found[1] + rest.ljust(decimals, "0"))):
        raise ValueError(f"an amount has at most {decimals} decimals and is above 0")
    return amount


def format_fraction(value: int, places: int) -> str:
    """A whole number of 10**-places: 1500, 3 → "1.5"."""
    whole, rest = divmod(value, 10**places)
    return f"{whole}.{rest:0{places}d}".rstrip("0").rstrip(".")
