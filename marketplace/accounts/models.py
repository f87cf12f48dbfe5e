"""People, the accounts they own, and the accounts' API keys. For money see `billing.tokens.wallets`."""

from __future__ import annotations

from typing import Any

from django.contrib.auth.models import AbstractBaseUser, BaseUserManager, PermissionsMixin
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


class Account(Capped):
    """A customer: owns a wallet, API keys and jobs. Its id is the owner of its wallet in billing.

    `periods` says when its days and months begin, and alone changes `time_zone`, with the day and the month that were
    running then: from when, and until when.
    """

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    owner = models.ForeignKey(Person, on_delete=models.PROTECT, related_name="accounts")
    name = Line(max_length=200)
    is_active = models.BooleanField("active", default=True)
    created_at = models.DateTimeField(auto_now_add=True)
    time_zone = models.CharField(max_length=64, default="UTC")
    day_from = models.DateTimeField(null=True, editable=False)
    day_until = models.DateTimeField(null=True, editable=False)
    month_from = models.DateTimeField(null=True, editable=False)
    month_until = models.DateTimeField(null=True, editable=False)

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
