"""The tables of jobs, their pictures and the workers. `lifecycle` is the sole writer of `Job.status`."""

from __future__ import annotations

from datetime import timedelta

from django.contrib.postgres.functions import TransactionNow
from django.core.serializers.json import DjangoJSONEncoder
from django.db import models
from django.db.models import F, Q

from billing import amounts
from inference.request import MAX_SEED
from marketplace.accounts.models import Account, ApiKey
from marketplace.identifiers import uuid7


class Status(models.TextChoices):
    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELED = "canceled"


FINAL = (Status.SUCCEEDED, Status.FAILED, Status.CANCELED)
# Seeds run from 0 to one less than this.
SEEDS = MAX_SEED + 1


class ServiceClass(models.TextChoices):
    INTERACTIVE = "interactive"
    STANDARD = "standard"
    BATCH = "batch"


# Jobs that were sent to the workers. A new row is in none of the indexes with this condition, so they do not slow
# buying.
SENT = Q(status="queued", dispatched_at__isnull=False)


class Bought(models.Model):
    """What was asked for, by whom and at what price: written once, with the hold, and never changed.

    Amounts are milli-Tokens. A purchase says every column that is declared here (see `submission`).
    """

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    account = models.ForeignKey(Account, on_delete=models.PROTECT, db_index=False)
    api_key = models.ForeignKey(ApiKey, on_delete=models.PROTECT, null=True, db_index=False)
    idempotency_key = models.CharField(max_length=255, null=True)  # noqa: DJ001 - unique if there is one
    order_digest = models.BinaryField(max_length=32)

    operation = models.CharField(max_length=20)
    model = models.CharField(max_length=100)
    service_class = models.CharField(max_length=20, choices=ServiceClass.choices)
    order = models.JSONField(help_text="prompt, size, steps and the rest, as validated")
    metadata = models.JSONField(default=dict)
    n = models.PositiveSmallIntegerField()
    seed = models.BigIntegerField()

    quote = models.JSONField(help_text="the price offer with every factor; never recomputed")
    quoted = models.BigIntegerField(help_text="milli-Tokens held")
    steps = models.PositiveIntegerField(help_text="of all the job's pictures together")

    class Meta:
        abstract = True


class Job(Bought):
    """One order: what was bought, where it stands, what it cost. A queued row with no `dispatched_at` is the outbox."""

    captured = models.BigIntegerField(default=0, help_text="milli-Tokens charged")
    receipt = models.JSONField(null=True, help_text="what was charged, picture by picture, and why")

    status = models.CharField(max_length=10, choices=Status.choices)
    step = models.PositiveIntegerField(default=0)
    cancel_cost = models.BigIntegerField(
        default=0, db_default=0, help_text="milli-Tokens that a cancel would have cost when the worker last reported"
    )
    attempt = models.PositiveSmallIntegerField(default=0)
    worker = models.CharField(max_length=100, default="", blank=True)
    lease_expires_at = models.DateTimeField(null=True)
    cancel_requested_at = models.DateTimeField(null=True)
    error_code = models.CharField(max_length=50, default="", blank=True)
    error_message = models.CharField(max_length=500, default="", blank=True)
    picture_key = models.BinaryField(
        max_length=32, null=True, help_text="SHA-256 of what the pictures follow from, once they are there"
    )
    timings = models.JSONField(default=dict, encoder=DjangoJSONEncoder)

    created_at = models.DateTimeField(db_default=TransactionNow())
    dispatched_at = models.DateTimeField(null=True)
    not_before = models.DateTimeField(null=True, help_text="When the next attempt may begin.")
    tag = models.BigIntegerField(null=True, help_text="place among the waiting jobs of its class; see `turns`")
    started_at = models.DateTimeField(null=True)
    finished_at = models.DateTimeField(null=True)
    forgotten_at = models.DateTimeField(null=True)
    to_erase = models.BooleanField(
        default=False, db_default=False, help_text="Forgotten, and something of it may still be in a storage."
    )

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["account", "idempotency_key"],
                condition=Q(idempotency_key__isnull=False),
                name="job_idempotency_key",
            ),
            models.CheckConstraint(condition=Q(status__in=Status.values), name="job_status_known"),
            models.CheckConstraint(
                condition=Q(captured__gte=0, captured__lte=F("quoted")), name="job_captured_within_quote"
            ),
            models.CheckConstraint(
                condition=Q(status=Status.RUNNING, lease_expires_at__isnull=False)
                | (~Q(status=Status.RUNNING) & Q(lease_expires_at__isnull=True)),
                name="job_lease_while_running",
            ),
            models.CheckConstraint(
                condition=Q(status__in=FINAL, finished_at__isnull=False)
                | (~Q(status__in=FINAL) & Q(finished_at__isnull=True)),
                name="job_finished_when_final",
            ),
        ]
        indexes = [
            models.Index(fields=["account", "-id"], name="job_of_account"),
            models.Index(fields=["id"], condition=Q(status="queued", dispatched_at=None), name="job_outbox"),
            models.Index(fields=["service_class", "id"], condition=Q(status="queued"), name="job_queue"),
            models.Index(fields=["service_class", "tag", "id"], condition=SENT, name="job_turns"),
            models.Index(fields=["account", "service_class", "tag"], condition=SENT, name="job_turns_of_account"),
            models.Index(fields=["service_class", "dispatched_at"], condition=SENT, name="job_messages"),
            models.Index(fields=["lease_expires_at"], condition=Q(status="running"), name="job_lease"),
            models.Index(fields=["status", "-id"], name="job_by_status"),
            models.Index(fields=["id"], condition=Q(to_erase=True), name="job_to_erase"),
            models.Index(
                fields=["account", "picture_key"], condition=Q(picture_key__isnull=False), name="job_pictures"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.operation} {self.id}"

    @property
    def is_final(self) -> bool:
        return self.status in FINAL

    def seed_of(self, index: int) -> int:
        """Return the seed of picture `index`; the first one's follow upon each other, and 0 upon the largest."""
        return (self.seed + index) % SEEDS

    @property
    def held(self) -> int:
        """Milli-Tokens held at this moment."""
        return 0 if self.is_final else self.quoted

    @property
    def released(self) -> int:
        return self.quoted - self.captured if self.is_final else 0

    def __repr__(self) -> str:
        return f"<Job {self.id} {self.status} {amounts.format_tokens(self.quoted)}>"


class Image(models.Model):
    """One finished picture of a job; its bytes are in the image storage under `path`."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    job = models.ForeignKey(Job, on_delete=models.CASCADE, related_name="images", db_index=False)
    index = models.PositiveSmallIntegerField()
    path = models.CharField(max_length=200)
    media_type = models.CharField(max_length=20)
    sha256 = models.CharField(max_length=64)
    width = models.PositiveIntegerField()
    height = models.PositiveIntegerField()
    size = models.PositiveIntegerField(help_text="bytes")
    seed = models.BigIntegerField()
    created_at = models.DateTimeField(db_default=TransactionNow())

    class Meta:
        ordering = ["index"]
        constraints = [models.UniqueConstraint(fields=["job", "index"], name="image_once")]

    def __str__(self) -> str:
        return self.path


# A worker that was not seen for this long is dead or cut off.
ALIVE_WITHIN = timedelta(seconds=15)


class Worker(models.Model):
    """A worker process that reports that it is alive; `readyz` requires one that is warm."""

    name = models.CharField(max_length=100, primary_key=True)
    model = models.CharField(max_length=100)
    revision = models.CharField(max_length=64)
    warm = models.BooleanField(default=False)
    running = models.PositiveIntegerField(default=0)
    started_at = models.DateTimeField(auto_now_add=True)
    seen_at = models.DateTimeField()

    def __str__(self) -> str:
        return self.name
