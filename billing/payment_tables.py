"""The tables of card payments and their constraints: packs, which are sold.

Amounts are integer milli-Tokens, money is in the currency's smallest unit (`_minor`). That a pack keeps its terms, a
trigger says, in the migration `packs`.
"""

from __future__ import annotations

from django.db import models
from django.db.models import Q
from django.db.models.functions import Now


class Pack(models.Model):
    """One version of what is sold under a name: `tokens`, and `bonus` granted beside, for one of `prices`.

    `prices` are minor units by currency, as Stripe writes it: `{"eur": 500}`. Only `active` ever changes.
    """

    name = models.SlugField(max_length=40)
    version = models.PositiveIntegerField()
    tokens = models.BigIntegerField()
    bonus = models.BigIntegerField()
    prices = models.JSONField()
    active = models.BooleanField(default=True)
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        verbose_name = "Token pack"
        constraints = [
            models.UniqueConstraint(fields=["name", "version"], name="pack_version_once"),
            models.UniqueConstraint(fields=["name"], condition=Q(active=True), name="pack_one_active_version"),
            models.CheckConstraint(condition=Q(version__gt=0, tokens__gt=0, bonus__gte=0), name="pack_in_range"),
        ]

    def __str__(self) -> str:
        return f"{self.name}, version {self.version}"
