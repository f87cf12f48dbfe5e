"""The currencies that packs can be priced in, and how Stripe counts them (docs.stripe.com/currencies). Pure.

Amounts are in a currency's smallest unit. Amounts of two currencies are never added or compared anywhere.
"""

from __future__ import annotations

from dataclasses import dataclass

# Stripe takes at most eight digits.
LARGEST_CHARGE = 99_999_999


@dataclass(frozen=True)
class Currency:
    """`least` is the smallest charge that Stripe takes, `step` what every charge must be a multiple of."""

    least: int
    decimals: int = 2
    step: int = 1


# Stripe's own minimums.
_PUBLISHED = {
    "aed": 200, "aud": 50, "bgn": 100, "brl": 50, "cad": 50, "chf": 50, "czk": 1500, "dkk": 250, "eur": 50, "gbp": 30,
    "hkd": 400, "huf": 17500, "inr": 50, "mxn": 1000, "myr": 200, "nok": 300, "nzd": 50, "pln": 200, "ron": 200,
    "sek": 300, "sgd": 50, "thb": 1000, "usd": 50,
}  # fmt: skip
# Elsewhere Stripe asks for the worth of its minimum in the currency that it pays out. These are worth about a
# US dollar, twice that minimum.
_ESTIMATED = {"cny": 800, "idr": 1_700_000, "ils": 400, "php": 6000, "sar": 400, "twd": 3500, "zar": 2000}
_WHOLE = {
    "bif": 3000, "clp": 1000, "djf": 180, "gnf": 9000, "kmf": 500, "krw": 1500, "mga": 5000, "pyg": 8000, "rwf": 1500,
    "vnd": 27000, "vuv": 125, "xaf": 650, "xof": 650, "xpf": 120,
}  # fmt: skip
_THOUSANDTHS = {"bhd": 400, "jod": 720, "kwd": 320, "omr": 400, "tnd": 3200}

CURRENCIES = {
    **{name: Currency(least) for name, least in (_PUBLISHED | _ESTIMATED).items()},
    "jpy": Currency(50, decimals=0),
    **{name: Currency(least, decimals=0) for name, least in _WHOLE.items()},
    **{name: Currency(least, decimals=3, step=10) for name, least in _THOUSANDTHS.items()},
    # Without a smaller unit, but Stripe counts them in hundredths as before.
    "isk": Currency(15_000, step=100),
    "ugx": Currency(400_000, step=100),
}


def decimals(currency: str) -> int:
    """Return how many decimals amounts of a currency have, as Stripe counts them; 2 if it is not known."""
    found = CURRENCIES.get(currency)
    return found.decimals if found else 2


def step(currency: str) -> int:
    """Return what charges and refunds in a currency must be a multiple of."""
    found = CURRENCIES.get(currency)
    return found.step if found else 1
