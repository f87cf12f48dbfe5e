"""The table of trainings. `submission` writes its rows, `lifecycle` alone changes their status."""

from __future__ import annotations

from django.contrib.postgres.functions import TransactionNow
from django.db import models
from django.db.models import F, Q

from lora import training_prices
from lora.models import Adapter, Tier, Version
from marketplace.accounts.models import Account, ApiKey
from marketplace.identifiers import uuid7
from marketplace.jobs.models import FINAL, ServiceClass, Status


class Training(models.Model):
    """A training as it was ordered, where it stands, and what it cost. Amounts are milli-Tokens.

    `order` has the pictures (ids of files, hashes, captions) and the rest as validated. `evaluations` are what was
    measured on the way: step, loss, path of the samples, path of the adapter while it is kept. A trainer's claim is its
    name and the attempt's number; `failures` counts the attempts since the last that came further.
    """

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    account = models.ForeignKey(Account, on_delete=models.PROTECT, db_index=False)
    api_key = models.ForeignKey(ApiKey, on_delete=models.PROTECT, null=True, db_index=False)
    adapter = models.ForeignKey(Adapter, on_delete=models.PROTECT, related_name="trainings")
    tier = models.ForeignKey(Tier, on_delete=models.PROTECT, db_index=False)
    idempotency_key = models.CharField(max_length=255, null=True)  # noqa: DJ001 - unique if there is one
    order_digest = models.BinaryField(max_length=32)
    order = models.JSONField()
    service_class = models.CharField(max_length=20, choices=ServiceClass.choices)
    keep_pictures = models.BooleanField(default=False)

    quote = models.JSONField(help_text="the price offer with every factor; never recomputed")
    quoted = models.BigIntegerField(help_text="milli-Tokens held")
    captured = models.BigIntegerField(default=0, help_text="milli-Tokens charged")

    status = models.CharField(max_length=10, choices=Status.choices, default=Status.QUEUED)
    step = models.PositiveIntegerField(default=0)
    steps = models.PositiveIntegerField()
    loss = models.FloatField(null=True)
    seconds_left = models.PositiveIntegerField(null=True)
    evaluations = models.JSONField(default=list)
    checkpoint = models.CharField(max_length=200, default="", blank=True, help_text="path of the newest one")
    version = models.ForeignKey(Version, on_delete=models.PROTECT, null=True, related_name="+", db_index=False)

    attempt = models.PositiveIntegerField(default=0)
    failures = models.PositiveSmallIntegerField(default=0)
    worker = models.CharField(max_length=100, default="", blank=True)
    lease_expires_at = models.DateTimeField(null=True)
    cancel_requested_at = models.DateTimeField(null=True)
    error_code = models.CharField(max_length=50, default="", blank=True)
    error_message = models.CharField(max_length=500, default="", blank=True)

    created_at = models.DateTimeField(db_default=TransactionNow())
    not_before = models.DateTimeField(null=True)
    started_at = models.DateTimeField(null=True)
    finished_at = models.DateTimeField(null=True)
    cleared_at = models.DateTimeField(null=True, help_text="When its pictures and checkpoints were removed.")

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["account", "idempotency_key"],
                condition=Q(idempotency_key__isnull=False),
                name="training_idempotency_key",
            ),
            models.CheckConstraint(condition=Q(status__in=Status.values), name="training_status_known"),
            models.CheckConstraint(
                condition=Q(captured__gte=0, captured__lte=F("quoted")), name="training_captured_within_quote"
            ),
            models.CheckConstraint(condition=Q(step__lte=F("steps")), name="training_step_within_steps"),
            models.CheckConstraint(
                condition=Q(status=Status.RUNNING, lease_expires_at__isnull=False)
                | (~Q(status=Status.RUNNING) & Q(lease_expires_at__isnull=True)),
                name="training_lease_while_running",
            ),
            models.CheckConstraint(
                condition=Q(status__in=FINAL, finished_at__isnull=False)
                | (~Q(status__in=FINAL) & Q(finished_at__isnull=True)),
                name="training_finished_when_final",
            ),
        ]
        indexes = [
            models.Index(fields=["account", "-id"], name="training_of_account"),
            models.Index(fields=["id"], condition=Q(status="queued"), name="training_queue"),
            models.Index(fields=["lease_expires_at"], condition=Q(status="running"), name="training_lease"),
            models.Index(
                fields=["id"], condition=Q(finished_at__isnull=False, cleared_at=None), name="training_to_clear"
            ),
        ]

    def __str__(self) -> str:
        return f"training {self.id}"

    @property
    def is_final(self) -> bool:
        return self.status in FINAL

    @property
    def held(self) -> int:
        """Milli-Tokens held at this moment."""
        return 0 if self.is_final else self.quoted

    @property
    def released(self) -> int:
        return self.quoted - self.captured if self.is_final else 0

    @property
    def cancel_cost(self) -> int:
        """What a cancel would cost as of the last report."""
        return training_prices.charge(training_prices.Quote.from_json(self.quote), self.step)
