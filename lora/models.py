"""The tables of adapters, with the constraints that hold whoever writes to them. Not for behaviour.

A trigger in the first migration keeps what a version is from changing once it is ready.
"""

from __future__ import annotations

from dataclasses import fields

from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models import Q
from django.db.models.functions import Now

from lora.training_prices import LAYERS, Terms

SLUG = r"^[a-z0-9](-?[a-z0-9])*$"
MAX_SLUG = 40


class Maker(models.Model):
    """An account as the owner of adapters, with the `handle` by which the public knows it."""

    account = models.UUIDField(primary_key=True)
    handle = models.CharField(max_length=MAX_SLUG, unique=True)
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        constraints = [models.CheckConstraint(condition=Q(handle__regex=SLUG), name="maker_handle_normal")]

    def __str__(self) -> str:
        return self.handle


class RetiredHandle(models.Model):
    """The SHA-256 of a handle whose account was closed: nobody gets it again."""

    digest = models.BinaryField(primary_key=True, max_length=32)

    def __str__(self) -> str:
        return f"handle {bytes(self.digest).hex()}"


class Adapter(models.Model):
    """An account's adapter for one base model, and who may use it. `owner_id` is the account's id."""

    class Visibility(models.TextChoices):
        PRIVATE = "private"
        SHARED = "shared"
        PUBLISHED = "published"

    id = models.UUIDField(primary_key=True)
    owner = models.ForeignKey(Maker, models.PROTECT, related_name="adapters", db_index=False)
    slug = models.CharField(max_length=MAX_SLUG)
    name = models.CharField(max_length=100)
    description = models.CharField(max_length=2000, default="", blank=True)
    trigger_words = ArrayField(models.CharField(max_length=100), default=list, blank=True)
    base_model = models.CharField(max_length=100)
    base_revision = models.CharField(max_length=64)
    visibility = models.CharField(max_length=10, choices=Visibility, default=Visibility.PRIVATE)
    tags = ArrayField(models.CharField(max_length=40), default=list, blank=True)
    uses = models.PositiveBigIntegerField(default=0, help_text="buyers' jobs that were charged, as of the last count")
    created_at = models.DateTimeField(db_default=Now())
    deleted_at = models.DateTimeField(null=True, editable=False)

    class Meta:
        indexes = [models.Index(fields=["owner", "-id"], name="adapter_of_owner")]
        constraints = [
            models.UniqueConstraint(fields=["owner", "slug"], condition=Q(deleted_at=None), name="adapter_slug_once"),
            models.CheckConstraint(condition=Q(slug__regex=SLUG), name="adapter_slug_normal"),
            models.CheckConstraint(
                condition=Q(visibility__in=["private", "shared", "published"]), name="adapter_visibility_known"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.owner}/{self.slug}"


class Shared(models.Model):
    """An account, beside the owner's, that may use an adapter."""

    adapter = models.ForeignKey(Adapter, models.CASCADE, related_name="shared", db_index=False)
    account = models.UUIDField(db_index=True)
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        verbose_name_plural = "shared"
        constraints = [models.UniqueConstraint(fields=["adapter", "account"], name="shared_once")]

    def __str__(self) -> str:
        return f"{self.adapter_id} with {self.account}"


class Version(models.Model):
    """One state of an adapter; its canonical file is known by the SHA-256 of its content.

    Once it is ready, nothing of it changes but that it is deleted, and then that its file is not `stored` any more. A
    version that is still being checked, or was refused, has no file of that kind. `surcharge` (thousandths of the
    price of a picture) is the platform's; `score` is in thousandths; `reason` says why it was refused.
    """

    class Status(models.TextChoices):
        CHECKING = "checking"
        READY = "ready"
        REFUSED = "refused"

    class Origin(models.TextChoices):
        UPLOADED = "uploaded"
        TRAINED = "trained"

    id = models.BigAutoField(primary_key=True)
    adapter = models.ForeignKey(Adapter, models.PROTECT, related_name="versions", db_index=False)
    number = models.PositiveIntegerField()
    status = models.CharField(max_length=10, choices=Status, default=Status.CHECKING)
    reason = models.CharField(max_length=500, default="", blank=True)
    origin = models.CharField(max_length=10, choices=Origin)
    sha256 = models.CharField(max_length=64, default="", blank=True)
    size = models.BigIntegerField(help_text="bytes; of what was sent, until it is ready")
    rank = models.PositiveIntegerField(default=0, help_text="the highest of any layer")
    layers = models.PositiveIntegerField(default=0)
    recipe = models.JSONField(default=dict, blank=True)
    samples = models.JSONField(default=list, blank=True)
    score = models.PositiveIntegerField(null=True)
    surcharge = models.PositiveIntegerField(default=0)
    may_publish = models.BooleanField(default=True)
    stored = models.BooleanField(default=True)
    created_at = models.DateTimeField(db_default=Now())
    deleted_at = models.DateTimeField(null=True, editable=False)

    class Meta:
        indexes = [
            models.Index(fields=["id"], condition=Q(status="checking"), name="version_to_check"),
            models.Index(fields=["id"], condition=Q(stored=True, deleted_at__isnull=False), name="version_to_remove"),
        ]
        constraints = [
            models.UniqueConstraint(fields=["adapter", "number"], name="version_once"),
            models.CheckConstraint(
                condition=Q(
                    status="ready", reason="", sha256__regex="^[0-9a-f]{64}$", rank__range=(1, 256), layers__gt=0
                )
                | Q(status="checking", reason="", sha256="")
                | Q(status="refused", reason__gt="", sha256=""),
                name="version_status_has_facts",
            ),
            models.CheckConstraint(condition=Q(number__gt=0, size__gt=0), name="version_in_range"),
            models.CheckConstraint(condition=Q(origin__in=["uploaded", "trained"]), name="version_origin_known"),
            models.CheckConstraint(
                condition=Q(stored=True) | Q(deleted_at__isnull=False) | Q(status="refused"),
                name="version_kept_while_used",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.adapter} version {self.number}"


class Tier(models.Model):
    """One version of a tier of trainings, in the units of `training_prices.Terms`; a trigger prevents changes."""

    name = models.SlugField(max_length=40)
    version = models.PositiveIntegerField()
    description = models.CharField(max_length=500)
    base_cost = models.BigIntegerField(help_text="milli-Tokens for 1,000 steps at 1024²")
    floor = models.PositiveIntegerField(help_text="pixels, below which a training costs no less")
    most_pictures = models.PositiveSmallIntegerField()
    side = models.PositiveSmallIntegerField(help_text="pixels")
    rank = models.PositiveSmallIntegerField()
    most_steps = models.PositiveIntegerField()
    versions_kept = models.PositiveSmallIntegerField(help_text="checkpoints that can be compared afterwards")
    service_class = models.CharField(max_length=20)
    may_publish = models.BooleanField()
    surcharge = models.PositiveIntegerField(help_text="thousandths of the price of each picture")
    layers = models.CharField(max_length=20, default="all", db_default="all", help_text="those that are trained")
    active = models.BooleanField(default=True)
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        verbose_name = "training tier"
        constraints = [
            models.UniqueConstraint(fields=["name", "version"], name="tier_version_once"),
            models.UniqueConstraint(fields=["name"], condition=Q(active=True), name="tier_one_active_version"),
            models.CheckConstraint(
                condition=Q(
                    version__gt=0, base_cost__gt=0, most_pictures__gte=4, side__gt=0, rank__range=(1, 256),
                    most_steps__gt=0, versions_kept__gt=0,
                ),
                name="tier_in_range",
            ),
            models.CheckConstraint(condition=Q(layers__in=LAYERS), name="tier_layers_known"),
        ]  # fmt: skip

    def __str__(self) -> str:
        return f"{self.name} version {self.version}"

    @property
    def terms(self) -> Terms:
        return Terms(**{each.name: getattr(self, each.name) for each in fields(Terms)})


class Listing(models.Model):
    """The terms under which everybody may use a version: never changed, only replaced by the next, or ended for good.

    `fee` is in thousandths of the price of a picture without adapters; `share` is how many thousandths of it the maker
    gets.
    """

    id = models.BigAutoField(primary_key=True)
    version = models.ForeignKey(Version, models.PROTECT, related_name="listings", db_index=False)
    fee = models.PositiveIntegerField()
    share = models.PositiveIntegerField()
    licence = models.CharField(max_length=100)
    created_at = models.DateTimeField(db_default=Now())
    ended_at = models.DateTimeField(null=True, editable=False)

    class Meta:
        indexes = [models.Index(fields=["version", "-id"], name="listing_of_version")]
        constraints = [
            models.CheckConstraint(condition=Q(fee__range=(0, 10_000), share__range=(0, 1000)), name="listing_in_range")
        ]

    def __str__(self) -> str:
        return f"listing {self.id} of {self.version}"


class Publication(models.Model):
    """A maker's wish that everybody may use a version, and what the operator decided. `fee` is as in a listing."""

    class Status(models.TextChoices):
        PENDING = "pending"
        APPROVED = "approved"
        REFUSED = "refused"
        WITHDRAWN = "withdrawn"

    id = models.UUIDField(primary_key=True)
    version = models.ForeignKey(Version, models.PROTECT, related_name="publications", db_index=False)
    adapter = models.ForeignKey(Adapter, models.PROTECT, related_name="publications")
    fee = models.PositiveIntegerField(help_text="thousandths of the price of a picture without adapters")
    licence = models.CharField(max_length=100)
    tags = ArrayField(models.CharField(max_length=40), default=list, blank=True)
    status = models.CharField(max_length=10, choices=Status, default=Status.PENDING)
    reason = models.CharField(max_length=500, default="", blank=True)
    created_at = models.DateTimeField(db_default=Now())
    decided_at = models.DateTimeField(null=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["adapter"], condition=Q(status="pending"), name="publication_one_pending"),
            models.CheckConstraint(
                condition=Q(status="pending", decided_at=None)
                | Q(status__in=["approved", "refused", "withdrawn"], decided_at__isnull=False),
                name="publication_decided_has_time",
            ),
        ]

    def __str__(self) -> str:
        return f"publication of {self.version}"


class Usage(models.Model):
    """How many jobs of a buyer were charged that were drawn with an adapter: not its maker, who pays no fee."""

    adapter = models.ForeignKey(Adapter, models.PROTECT, related_name="usage", db_index=False)
    account = models.UUIDField()
    jobs = models.PositiveBigIntegerField(default=0)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["adapter", "account"], name="usage_once")]

    def __str__(self) -> str:
        return f"{self.jobs} jobs of {self.account}"


class Rating(models.Model):
    """What a buyer thinks of an adapter, in stars."""

    adapter = models.ForeignKey(Adapter, models.CASCADE, related_name="ratings", db_index=False)
    account = models.UUIDField()
    stars = models.PositiveSmallIntegerField()
    rated_at = models.DateTimeField(db_default=Now())

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["adapter", "account"], name="rating_once"),
            models.CheckConstraint(condition=Q(stars__range=(1, 5)), name="rating_in_range"),
        ]

    def __str__(self) -> str:
        return f"{self.stars} stars"


class Report(models.Model):
    """Somebody's complaint about a published adapter, for the operator."""

    class Reason(models.TextChoices):
        ILLEGAL = "illegal"
        COPYRIGHT = "copyright"
        PERSON = "person"
        MISLEADING = "misleading"
        OTHER = "other"

    id = models.UUIDField(primary_key=True)
    adapter = models.ForeignKey(Adapter, models.PROTECT, related_name="reports", db_index=False)
    account = models.UUIDField()
    reason = models.CharField(max_length=20, choices=Reason)
    text = models.CharField(max_length=2000, default="", blank=True)
    created_at = models.DateTimeField(db_default=Now())
    closed_at = models.DateTimeField(null=True)
    outcome = models.CharField(max_length=500, default="", blank=True)

    class Meta:
        indexes = [models.Index(fields=["-id"], condition=Q(closed_at=None), name="report_open")]
        constraints = [
            models.UniqueConstraint(
                fields=["adapter", "account"], condition=Q(closed_at=None), name="report_one_open_each"
            ),
        ]

    def __str__(self) -> str:
        return f"report of {self.adapter}"
