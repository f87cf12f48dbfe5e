"""The tables of endpoints, of what is delivered there or by e-mail, and of what an account wants to be told."""

from __future__ import annotations

from uuid import UUID, uuid4

from django.contrib.postgres.fields import ArrayField
from django.contrib.postgres.functions import TransactionNow
from django.db import models
from django.db.models import Q

from marketplace.accounts.models import Account
from marketplace.identifiers import uuid7

# All e-mails wait in one lane, since one server takes them.
MAIL_LANE = UUID(int=0)


class EventType(models.TextChoices):
    JOB_SUCCEEDED = "job.succeeded"
    JOB_FAILED = "job.failed"
    JOB_CANCELED = "job.canceled"
    TRAINING_SUCCEEDED = "training.succeeded"
    TRAINING_FAILED = "training.failed"
    TRAINING_CANCELED = "training.canceled"
    BALANCE_LOW = "balance.low"
    CAP_REACHED = "topup.cap_reached"
    SWITCHED_OFF = "topup.switched_off"
    PAYMENT_FAILED = "payment.failed"
    ACTION_REQUIRED = "payment.action_required"
    WEBHOOK_DISABLED = "webhook.disabled"
    ADAPTER_READY = "adapter.ready"
    ADAPTER_REFUSED = "adapter.refused"
    PUBLICATION_APPROVED = "publication.approved"
    PUBLICATION_REFUSED = "publication.refused"
    PUBLICATION_WITHDRAWN = "publication.withdrawn"
    PAYOUT_PAID = "payout.paid"
    PAYOUT_FAILED = "payout.failed"
    PAYOUT_REVERSED = "payout.reversed"


# Asked for, never chosen.
TEST = "webhook.test"
# Those that are also sent by e-mail.
MAILED = (
    EventType.BALANCE_LOW, EventType.CAP_REACHED, EventType.SWITCHED_OFF, EventType.PAYMENT_FAILED,
    EventType.ACTION_REQUIRED, EventType.WEBHOOK_DISABLED, EventType.PUBLICATION_APPROVED,
    EventType.PUBLICATION_REFUSED, EventType.PUBLICATION_WITHDRAWN, EventType.PAYOUT_PAID, EventType.PAYOUT_FAILED,
    EventType.PAYOUT_REVERSED,
)  # fmt: skip


class Language(models.TextChoices):
    ENGLISH = "en"
    GERMAN = "de"


class Signed(models.Model):
    """Something with a secret, which `signatures` derives from a seed. The seed before signs too, until a time."""

    seed = models.UUIDField(default=uuid4, editable=False)
    previous_seed = models.UUIDField(null=True, editable=False)
    previous_until = models.DateTimeField(null=True, editable=False)

    class Meta:
        abstract = True


class Endpoint(Signed):
    """An address of an account's, and the types of events that are sent there.

    After too many `failures` in a row it is tried by one delivery at a time, and not before `paused_until`.
    """

    class Reason(models.TextChoices):
        OWNER = "owner"
        GONE = "gone"
        FAILING = "failing"

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    account = models.ForeignKey(Account, on_delete=models.PROTECT)
    url = models.CharField(max_length=2048)
    description = models.CharField(max_length=200, blank=True)
    types = ArrayField(models.CharField(max_length=40))
    enabled = models.BooleanField(default=True)
    disabled_reason = models.CharField(max_length=10, choices=Reason.choices, blank=True, default="")
    failures = models.PositiveIntegerField(default=0)
    failing_since = models.DateTimeField(null=True)
    paused_until = models.DateTimeField(null=True)
    created_at = models.DateTimeField(db_default=TransactionNow())

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=Q(enabled=True, disabled_reason="") | (Q(enabled=False) & ~Q(disabled_reason="")),
                name="endpoint_disabled_says_why",
            ),
        ]

    def __str__(self) -> str:
        return f"webhook {self.id}"


class Delivery(models.Model):
    """One event on its way to one place: an endpoint, the `url` that an order named, or the owner's e-mail address.

    Deliveries of one lane share its bounds. While an attempt is under way, `next_at` is when it counts as lost. What
    happened to a job is read when it is told; of anything else it is kept in `data`.
    """

    class Channel(models.TextChoices):
        ENDPOINT = "endpoint"
        ORDER = "order"
        MAIL = "mail"

    class Status(models.TextChoices):
        WAITING = "waiting"
        DELIVERED = "delivered"
        FAILED = "failed"

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    account = models.ForeignKey(Account, on_delete=models.PROTECT, db_index=False)
    channel = models.CharField(max_length=10, choices=Channel.choices)
    endpoint = models.ForeignKey(Endpoint, on_delete=models.CASCADE, null=True, db_index=False)
    url = models.CharField(max_length=2048, blank=True)
    lane = models.UUIDField()
    event = models.UUIDField(help_text="the same wherever it is sent, and however often")
    type = models.CharField(max_length=40)
    job = models.UUIDField(null=True)
    data = models.JSONField(null=True)
    happened_at = models.DateTimeField()
    created_at = models.DateTimeField(db_default=TransactionNow())
    status = models.CharField(max_length=10, choices=Status.choices, default=Status.WAITING)
    attempts = models.PositiveSmallIntegerField(default=0)
    next_at = models.DateTimeField()
    answered = models.PositiveSmallIntegerField(null=True, help_text="the status of the last answer")
    answer = models.CharField(max_length=500, blank=True, default="", help_text="its first characters")
    error = models.CharField(max_length=200, blank=True, default="", help_text="why there was none")
    finished_at = models.DateTimeField(null=True)

    class Meta:
        verbose_name_plural = "deliveries"
        indexes = [
            models.Index(fields=["lane", "next_at"], condition=Q(status="waiting"), name="delivery_waiting"),
            models.Index(fields=["endpoint", "-id"], name="delivery_of_endpoint"),
            models.Index(fields=["account", "-id"], name="delivery_of_account"),
        ]
        constraints = [
            models.CheckConstraint(
                condition=Q(status="waiting", finished_at=None) | (~Q(status="waiting") & Q(finished_at__isnull=False)),
                name="delivery_finished_when_final",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.type} {self.id}"


class Preferences(Signed):
    """What an account wants to be told and how. The secret signs what is sent to the addresses that orders name.

    `low_balance` is in milli-Tokens; without it the threshold of automatic top-ups counts. `low_since` says since when
    the balance has been below, of which the account was told.
    """

    account = models.OneToOneField(Account, on_delete=models.PROTECT, primary_key=True)
    language = models.CharField(max_length=2, choices=Language.choices, default=Language.ENGLISH)
    low_balance = models.BigIntegerField(null=True, blank=True)
    low_since = models.DateTimeField(null=True, editable=False)
    muted = ArrayField(models.CharField(max_length=40), default=list, help_text="types that are not sent by e-mail")

    class Meta:
        verbose_name_plural = "preferences"
        constraints = [
            models.CheckConstraint(
                condition=Q(low_balance=None) | Q(low_balance__gt=0), name="preferences_low_balance_positive"
            ),
        ]

    def __str__(self) -> str:
        return f"preferences of account {self.account_id}"
