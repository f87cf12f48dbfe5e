"""Token packs: what is sold, as versions that never change. Not for selling them (payments)."""

from __future__ import annotations

from typing import Any

from django.db import connection, transaction
from django.db.models import Max

from billing.amounts import LARGEST, show_money
from billing.currencies import CURRENCIES, LARGEST_CHARGE
from billing.errors import UnknownPack
from billing.models import Pack


def offered() -> list[Pack]:
    """Return the packs on sale, smallest first."""
    return list(Pack.objects.filter(active=True).order_by("tokens", "name"))


def find(name: str) -> Pack:
    """Return the version on sale under this name. Raises UnknownPack."""
    pack = Pack.objects.filter(name=name, active=True).first()
    if pack is None:
        raise UnknownPack(name)
    return pack


def publish(name: str, tokens: int, bonus: int, prices: dict[str, int]) -> Pack:
    """Publish a new version of a pack, replacing the one on sale; `tokens` and `bonus` are milli-Tokens.

    Raises ValueError if the terms are not valid.
    """
    check_prices(prices)
    if not (0 < tokens <= LARGEST and 0 <= bonus <= LARGEST):
        raise ValueError("a pack must have Tokens, and its bonus must not be negative")
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(hashtext('pack'), hashtext(%s))", [name])
        versions = Pack.objects.filter(name=name)
        latest = versions.aggregate(latest=Max("version", default=0))["latest"]
        versions.filter(active=True).update(active=False)
        return Pack.objects.create(name=name, version=latest + 1, tokens=tokens, bonus=bonus, prices=prices)


def stop(pack: Pack) -> None:
    """Take this version off sale; the pack can only be sold again as a new version."""
    Pack.objects.filter(pk=pack.pk).update(active=False)


def check_prices(prices: Any) -> None:
    """Raise ValueError unless these are minor units by currency, e.g. `{"eur": 500}`, that Stripe can charge."""
    if not isinstance(prices, dict) or not prices:
        raise ValueError('prices must be minor units by currency, e.g. {"eur": 500}')
    for currency, price in prices.items():
        terms = CURRENCIES.get(currency)
        if terms is None:
            raise ValueError(f"{currency!r} is no currency that packs can be priced in; try {', '.join(CURRENCIES)}")
        if type(price) is not int or not terms.least <= price <= LARGEST_CHARGE:
            bounds = " to ".join(show_money(bound, currency) for bound in (terms.least, LARGEST_CHARGE))
            raise ValueError(f"a price must be a whole number of minor units, for {bounds}, not {price!r}")
        if price % terms.step:
            raise ValueError(f"a price in {currency} must be a multiple of {terms.step}, not {price}")
