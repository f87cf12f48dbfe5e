"""The tables of closed months and their documents. A month is closed once; triggers refuse every change.

Not for behaviour. Amounts are integer milli-Tokens, money is in the currency's smallest unit (`_minor`).
"""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

from django.db import models
from django.db.models import F, Q
from django.db.models.functions import Now


class Month(models.Model):
    """A customer's month, from `first` until just before `end`, and what became of the Tokens in it.

    It ends where a month ends in the account's time `zone`, and the next begins there. It has the wallet's transfers
    after the previous month's `last_transfer_id`, up to its own; `moved` is what they moved, by kind.
    """

    owner = models.UUIDField()
    first = models.DateTimeField()
    end = models.DateTimeField()
    zone = models.TextField()
    opening = models.BigIntegerField()
    closing = models.BigIntegerField()
    moved = models.JSONField()
    last_transfer_id = models.BigIntegerField()
    closed_at = models.DateTimeField(db_default=Now())

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["owner", "first"], name="month_once"),
            models.CheckConstraint(condition=Q(end__gt=F("first")), name="month_lasts"),
        ]

    def __str__(self) -> str:
        return f"{self.name} of {self.owner}"

    @property
    def name(self) -> str:
        """The month's year and number, e.g. 2026-11, by its middle, as it may begin or end in another zone's month."""
        return f"{self.local(self.first + (self.end - self.first) / 2):%Y-%m}"

    @property
    def is_final(self) -> bool:
        return self.pk is not None

    def local(self, moment: datetime) -> datetime:
        return moment.astimezone(ZoneInfo(self.zone))


class Invoice(models.Model):
    """What was paid in a month in one currency, tax included; or, as a credit note, what of it went back.

    Each kind has a series of numbers without gaps, which the database gives. `seller` and `buyer` are as they were. A
    line has `at`, `text`, `tokens`, `amount_minor`, `tax_minor` (null if Stripe reported none) and its `top_up`; a
    credit note's also names its `invoice`.
    """

    class Kind(models.TextChoices):
        INVOICE = "invoice"
        CREDIT_NOTE = "credit_note"

    kind = models.TextField(choices=Kind)
    number = models.PositiveIntegerField(db_default=0)
    month = models.ForeignKey(Month, models.PROTECT, related_name="invoices")
    currency = models.TextField()
    total_minor = models.BigIntegerField()
    tax_minor = models.BigIntegerField(null=True)
    lines = models.JSONField()
    seller = models.JSONField()
    buyer = models.JSONField()
    issued_at = models.DateTimeField(db_default=Now())

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["kind", "number"], name="invoice_number_once"),
            models.UniqueConstraint(fields=["month", "kind", "currency"], name="invoice_once_a_month"),
            models.CheckConstraint(condition=Q(total_minor__gt=0), name="invoice_in_range"),
        ]

    def __str__(self) -> str:
        return self.name

    @property
    def name(self) -> str:
        """The number as people write it; empty before the month is closed."""
        series = "INV" if self.kind == self.Kind.INVOICE else "CN"
        return f"{series}-{self.number:06d}" if self.pk else ""
