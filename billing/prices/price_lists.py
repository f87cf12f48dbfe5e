"""Published price lists: which one is current, and how a new one is made.

A version is never changed, only replaced by the next. Not for the formula (pricing).
"""

from __future__ import annotations

import time
from collections.abc import Mapping

from django.db import connection, transaction

from billing.models import PriceListVersion
from billing.prices.pricing import PriceList

FRESH_SECONDS = 5.0

_current: tuple[float, PriceList] | None = None


def current(now: float | None = None) -> PriceList:
    """Return the newest version; a process sees a new one within five seconds. Raises LookupError if there is none.

    `now` is in monotonic seconds.
    """
    global _current
    cached = _current
    if now is None:
        now = time.monotonic()
    if cached is None or cached[0] < now:
        newest = PriceListVersion.objects.order_by("-version").first()
        if newest is None:
            raise LookupError("no price list has been published")
        _current = cached = (now + FRESH_SECONDS, _prices(newest))
    return cached[1]


def get(version: int) -> PriceList:
    """Return one version. Raises PriceListVersion.DoesNotExist."""
    return _prices(PriceListVersion.objects.get(version=version))


def forget() -> None:
    """Make this process read the current version again."""
    global _current
    _current = None


def publish(
    *,
    base_cost: int,
    prompt_floor: int,
    service_classes: Mapping[str, int],
    operations: Mapping[str, int],
    skipped_step: int,
) -> PriceList:
    """Publish the next version, in the units of `pricing.PriceList`.

    Raises ValueError or TypeError for invalid factors.
    """
    with transaction.atomic(), connection.cursor() as cursor:
        # Readers pass; a second publisher waits, and then takes the next number.
        cursor.execute(f"LOCK TABLE {PriceListVersion._meta.db_table} IN SHARE ROW EXCLUSIVE MODE")
        newest = PriceListVersion.objects.order_by("-version").first()
        prices = PriceList(
            version=newest.version + 1 if newest else 1,
            base_cost=base_cost,
            prompt_floor=prompt_floor,
            service_classes=dict(service_classes),
            operations=dict(operations),
            skipped_step=skipped_step,
        )
        PriceListVersion.objects.create(**vars(prices))
        transaction.on_commit(forget)
    return prices


def _prices(row: PriceListVersion) -> PriceList:
    return PriceList(
        version=row.version,
        base_cost=row.base_cost,
        prompt_floor=row.prompt_floor,
        service_classes=row.service_classes,
        operations=row.operations,
        skipped_step=row.skipped_step,
    )
