"""People, the accounts they own, and the accounts' API keys. For money see `billing.tokens.wallets`."""

from __future__ import annotations

from typing import Any

from django.contrib.auth.models import AbstractBaseUser, BaseUserManager, PermissionsMixin
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models import Q

from marketplace import text
from marketplace.accounts.columns import Email, Line
from marketplace.identifiers import uuid7


class PersonManager(BaseUserManager["Person"]):
    def create_user(self, email: str, password: str | None = None, **fields: Any) -> Person:
        """Create a person. Without a password they cannot log in, only use API keys.

        Raises ValueError if `email` is not an e-mail address.
        """
        person = self.model(email=text.email(email), **fields)
        person.set_password(password)
        person.save(using=self._db)
        return person

    def create_superuser(self, email: str, password: str | None = None, **fields: Any) -> Person:
        return self.create_user(email, password, is_staff=True, is_superuser=True, **fields)


class Person(AbstractBaseUser, PermissionsMixin):
    """Somebody who can log in: an operator (staff) or the owner of an account."""

    email = Email(unique=True)
    name = Line(max_length=200, blank=True)
    is_staff = models.BooleanField("operator", default=False)
    is_active = models.BooleanField("active", default=True)
    created_at = models.DateTimeField(auto_now_add=True)

    objects = PersonManager()
    USERNAME_FIELD = "email"

    class Meta:
        verbose_name_plural = "people"
        constraints = [
            models.CheckConstraint(condition=Q(email__regex=r"^[!-@\[-~]+$"), name="person_email_normal"),
        ]

    def __str__(self) -> str:
        return self.email


class Capped(models.Model):
    """Spend caps per day and per month of the account's time zone, in milli-Tokens; null means no cap."""

    daily_cap = models.BigIntegerField(null=True, blank=True)
    monthly_cap = models.BigIntegerField(null=True, blank=True)

    class Meta:
        abstract = True
        constraints = [
            models.CheckConstraint(
                condition=(Q(daily_cap=None) | Q(daily_cap__gte=0)) & (Q(monthly_cap=None) | Q(monthly_cap__gte=0)),
                name="%(class)s_caps_not_negative",
            )
        ]

    @property
    def is_capped(self) -> bool:
        return self.daily_cap is not None or self.monthly_cap is not None


# The tier of new accounts, which a migration makes.
STANDARD = 1


def _most(text: str) -> models.PositiveIntegerField[int, int]:
    limits = [MinValueValidator(1), MaxValueValidator(1_000_000_000)]
    return models.PositiveIntegerField(validators=limits, help_text=text)


class Tier(models.Model):
    """What an account may ask for in a time, and keep. `tiers` reads it; operators change it in the console."""

    name = Line(max_length=40, unique=True)
    requests_minute = _most("Requests a minute of an account.")
    key_requests_minute = _most("Requests a minute of each of its API keys.")
    requests_day = _most("Requests a day of an account.")
    upload_mb_hour = _most("MiB sent an hour, of bodies above 64 KiB.")
    queued_jobs = _most("Jobs that may wait for a worker at once.")
    streams = _most("Streams of events that may be open at once.")
    files = _most("Files kept at once.")
    files_mb = _most("MiB of files kept at once.")
    files_unfunded = _most("Files kept at once by an account that has no Tokens.")

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=Q(requests_minute__gte=1, key_requests_minute__gte=1, requests_day__gte=1, queued_jobs__gte=1)
                & Q(upload_mb_hour__gte=1, streams__gte=1, files__gte=1, files_mb__gte=1)
                & Q(files_unfunded__gte=1),
                name="tier_lets_something_through",
            )
        ]

    def __str__(self) -> str:
        return self.name


class Account(Capped):
    """A customer: owns a wallet, API keys and jobs. Its id is the owner of its wallet in billing.

    `periods` says when its days and months begin, and alone changes `time_zone`, with the day and the month that were
    running then: from when, and until when.
    """

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    owner = models.ForeignKey(Person, on_delete=models.PROTECT, related_name="accounts")
    name = Line(max_length=200)
    is_active = models.BooleanField("active", default=True)
    tier = models.ForeignKey(Tier, on_delete=models.PROTECT, default=STANDARD)
    created_at = models.DateTimeField(auto_now_add=True)
    time_zone = models.CharField(max_length=64, default="UTC")
    day_from = models.DateTimeField(null=True, editable=False)
    day_until = models.DateTimeField(null=True, editable=False)
    month_from = models.DateTimeField(null=True, editable=False)
    month_until = models.DateTimeField(null=True, editable=False)
    closed_at = models.DateTimeField(null=True, editable=False)
    to_erase = models.BooleanField(default=False, db_default=False, editable=False)

    class Meta(Capped.Meta):
        indexes = [models.Index(fields=["id"], condition=Q(to_erase=True), name="account_to_erase")]

    def __str__(self) -> str:
        return self.name


class ApiKey(Capped):
    """`kiln_<prefix>_<secret>`; only a SHA-256 of the 256-bit random secret is stored.

    A slow password hash would add nothing against guessing 256 random bits.
    """

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    account = models.ForeignKey(Account, on_delete=models.CASCADE, related_name="keys")
    name = Line(max_length=100)
    prefix = models.CharField(max_length=12, unique=True, editable=False)
    secret_hash = models.BinaryField(max_length=32, editable=False)
    created_at = models.DateTimeField(auto_now_add=True)
    last_used_at = models.DateTimeField(null=True, editable=False)
    revoked_at = models.DateTimeField(null=True, editable=False)

    class Meta(Capped.Meta):
        verbose_name = "API key"

    def __str__(self) -> str:
        return f"{self.name} (kiln_{self.prefix}…)"


class Identity(models.Model):
    """Somebody of the identity provider, as its tokens name them, and the account that they speak for."""

    account = models.ForeignKey(Account, on_delete=models.CASCADE)
    issuer = models.CharField(max_length=500)
    subject = models.CharField(max_length=255)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        verbose_name_plural = "identities"
        constraints = [models.UniqueConstraint(fields=["issuer", "subject"], name="identity_once")]

    def __str__(self) -> str:
        return f"{self.subject} of {self.issuer}"


class Origin(models.Model):
    """A site whose scripts may read what the API answers to an account."""

    account = models.ForeignKey(Account, on_delete=models.CASCADE, related_name="origins")
    origin = models.CharField(max_length=255, db_index=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["account", "origin"], name="origin_once")]

    def __str__(self) -> str:
        return self.origin
