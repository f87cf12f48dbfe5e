"""Tiers: what trainings are sold, as versions that never change. Not for their price (`training_prices`)."""

from __future__ import annotations

from dataclasses import asdict

from django.db import connection, transaction
from django.db.models import Max

from lora.errors import UnknownTier
from lora.models import Tier
from lora.training_prices import Terms


def offered() -> list[Tier]:
    """Return the tiers on sale, the cheapest first."""
    return list(Tier.objects.filter(active=True).order_by("base_cost", "name"))


def find(name: str) -> Tier:
    """Return the version on sale under this name. Raises UnknownTier."""
    tier = Tier.objects.filter(name=name, active=True).first()
    if tier is None:
        raise UnknownTier(name)
    return tier


def publish(name: str, description: str, terms: Terms) -> Tier:
    """Publish a new version of a tier, which replaces the one on sale."""
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(hashtext('tier'), hashtext(%s))", [name])
        versions = Tier.objects.filter(name=name)
        latest = versions.aggregate(latest=Max("version", default=0))["latest"]
        versions.filter(active=True).update(active=False)
        return Tier.objects.create(name=name, version=latest + 1, description=description, **asdict(terms))


def stop(tier: Tier) -> None:
    """Take this version off sale; the tier can only be sold again as a new version."""
    Tier.objects.filter(pk=tier.pk).update(active=False)
