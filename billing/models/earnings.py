"""The tables of what makers earn, with the constraints that hold whoever writes to them. Not for behaviour.

Amounts are integer milli-Tokens, money is in the currency's smallest unit (`_minor`). Triggers in the migration
`earnings` keep the terms of an earning from changing.
"""

from __future__ import annotations

from uuid import uuid4

from django.contrib.postgres.fields import ArrayField
from django.contrib.postgres.indexes import BrinIndex
from django.db import models
from django.db.models import F, Q
from django.db.models.functions import Now

from billing.models.tokens import Lot, Transfer, Wallet


class Earning(models.Model):
    """What one lot paid of a capture's transfer to a maker, written with its draw; never deleted.

    `money_minor` of `currency` is its worth: what the transfer drew from a paid lot, or what the marketing account paid
    for granted Tokens, which is decided once (`weighed`). Of both, refunds took `back`, for good, and `owed` is away as
    long as the customer owes it to the lot's payment.
    """

    id = models.BigAutoField(primary_key=True)
    # No database foreign keys to what is read only: see Transfer.
    maker = models.ForeignKey(Wallet, models.PROTECT, related_name="earnings", db_constraint=False, db_index=False)
    transfer = models.ForeignKey(Transfer, models.PROTECT, related_name="earnings", db_constraint=False)
    lot = models.ForeignKey(Lot, models.PROTECT, related_name="earnings", db_constraint=False)
    reference = models.UUIDField()
    amount = models.BigIntegerField()
    money_minor = models.BigIntegerField()
    currency = models.TextField()
    back = models.BigIntegerField(db_default=0)
    back_minor = models.BigIntegerField(db_default=0)
    owed = models.BigIntegerField(db_default=0)
    owed_minor = models.BigIntegerField(db_default=0)
    weighed = models.BooleanField()
    created_at = models.DateTimeField()

    class Meta:
        indexes = [
            models.Index("maker", "transfer", name="earning_by_maker"),
            models.Index("id", condition=Q(weighed=False), name="earning_to_weigh"),
            BrinIndex("created_at", autosummarize=True, name="earning_by_time"),
        ]
        constraints = [
            models.UniqueConstraint(fields=["reference", "maker", "lot"], name="earning_once"),
            models.CheckConstraint(
                condition=Q(amount__gt=0, back__gte=0, owed__gte=0, back__lte=F("amount"), owed__lte=F("amount")),
                name="earning_within_amount",
            ),
            models.CheckConstraint(
                condition=Q(back_minor__gte=0, owed_minor__gte=0, back_minor__lte=F("money_minor"))
                & Q(owed_minor__lte=F("money_minor")),
                name="earning_within_worth",
            ),
            models.CheckConstraint(
                condition=Q(currency="", money_minor=0) | Q(currency__regex="^[a-z]{3}$", weighed=True),
                name="earning_worth_has_currency",
            ),
        ]

    def __str__(self) -> str:
        return f"earning {self.id}"


class Purse(models.Model):
    """A maker's earnings in one currency, or without worth: what left them, and what the platform advanced.

    What was earned is the sum of the earnings. `out` and `out_minor` were exchanged or paid out; `advanced`
    milli-Tokens are the maker's debt, for Tokens that were taken back after they had left. Its row changes under the
    maker's lock.
    """

    maker = models.ForeignKey(Wallet, models.PROTECT, related_name="purses", db_index=False)
    currency = models.TextField()
    out = models.BigIntegerField(default=0)
    out_minor = models.BigIntegerField(default=0)
    advanced = models.BigIntegerField(default=0)
    moves = models.PositiveBigIntegerField(default=0)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["maker", "currency"], name="purse_once"),
            models.CheckConstraint(condition=Q(out__gte=0, out_minor__gte=0, advanced__gte=0), name="purse_in_range"),
        ]

    def __str__(self) -> str:
        return f"purse {self.currency or 'without worth'} of wallet {self.maker_id}"


class Exchange(models.Model):
    """Matured earnings of one purse that became Tokens in the maker's own wallet as customer, as a lot of that worth.

    All that one request moved has its `idempotency_key`, and the `requested` milli-Tokens; null: all that is matured.
    """

    id = models.UUIDField(primary_key=True, default=uuid4)
    purse = models.ForeignKey(Purse, models.PROTECT, related_name="exchanges")
    amount = models.BigIntegerField()
    money_minor = models.BigIntegerField()
    requested = models.BigIntegerField(null=True)
    idempotency_key = models.TextField()
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["purse", "idempotency_key"], name="exchange_once"),
            models.CheckConstraint(condition=Q(amount__gt=0, money_minor__gte=0), name="exchange_in_range"),
        ]

    def __str__(self) -> str:
        return f"exchange {self.id}"


class Marketing(models.Model):
    """The operator's account that gives earnings from granted Tokens a worth, in one currency; the row may be missing.

    1,000 Tokens are worth `price_minor`. `funded_minor` is the sum of its fundings, `used_minor` what earnings hold of
    it; `weighed` milli-Tokens were paid for, so that what is less than the smallest unit adds up.
    """

    currency = models.TextField(primary_key=True)
    price_minor = models.BigIntegerField()
    funded_minor = models.BigIntegerField(default=0)
    used_minor = models.BigIntegerField(default=0)
    weighed = models.BigIntegerField(default=0)
    is_open = models.BooleanField(default=True)

    class Meta:
        verbose_name = "marketing account"
        constraints = [
            models.UniqueConstraint(fields=["is_open"], condition=Q(is_open=True), name="marketing_one_open"),
            models.CheckConstraint(
                condition=Q(price_minor__gt=0, used_minor__gte=0, weighed__gte=0, currency__regex="^[a-z]{3}$")
                & Q(funded_minor__gte=F("used_minor")),
                name="marketing_within_funds",
            ),
        ]

    def __str__(self) -> str:
        return f"marketing account in {self.currency}"

    @property
    def left_minor(self) -> int:
        """What makers can still be paid with it."""
        return self.funded_minor - self.used_minor


class Funding(models.Model):
    """Money that the operator put into the marketing account, or took out if negative; never changed."""

    account = models.ForeignKey(Marketing, models.PROTECT, related_name="fundings")
    amount_minor = models.BigIntegerField()
    idempotency_key = models.TextField(unique=True)
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        constraints = [models.CheckConstraint(condition=~Q(amount_minor=0), name="funding_moves")]

    def __str__(self) -> str:
        return f"funding {self.pk}"


class Payee(models.Model):
    """A maker as Stripe's recipient; `account_id` is empty until Stripe has answered.

    `news` is not empty while Stripe is still to be asked what has become of it. `capability` is Stripe's word for
    whether it may get transfers, and `missing` what Stripe still wants, as of `asked_at`. Each `attempt` at making it
    has its own idempotency key.
    """

    class Status(models.TextChoices):
        ONBOARDING = "onboarding"
        ACTIVE = "active"
        INACTIVE = "inactive"

    owner = models.UUIDField(primary_key=True)
    country = models.TextField()
    email = models.TextField()
    account_id = models.TextField(default="")
    status = models.TextField(choices=Status, default=Status.ONBOARDING)
    capability = models.TextField(default="", db_default="")
    missing = ArrayField(models.TextField(), default=list, db_default=[])
    asked_at = models.DateTimeField(null=True)
    news = models.TextField(default="")
    attempt = models.PositiveIntegerField(default=0)
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        indexes = [models.Index("owner", condition=~Q(news=""), name="payee_with_news")]
        constraints = [
            models.UniqueConstraint(fields=["account_id"], condition=~Q(account_id=""), name="payee_account_once"),
            models.CheckConstraint(condition=Q(country__regex="^[a-z]{2}$"), name="payee_has_country"),
        ]

    def __str__(self) -> str:
        return f"payee {self.account_id or self.owner}"


class Payout(models.Model):
    """Matured earnings of one purse on their way to their maker as money, by one of Stripe's transfers.

    Its Tokens and money left the purse when it was ordered. `back` and `back_minor` of them returned, because Stripe
    refused, or reversed the transfer. It is due again at `due_at` until Stripe has answered; each `attempt` has its own
    idempotency key.
    """

    class Status(models.TextChoices):
        ORDERED = "ordered"
        PAID = "paid"
        FAILED = "failed"
        REVERSED = "reversed"

    id = models.UUIDField(primary_key=True)
    purse = models.ForeignKey(Purse, models.PROTECT, related_name="payouts")
    account_id = models.TextField()
    amount = models.BigIntegerField()
    money_minor = models.BigIntegerField()
    back = models.BigIntegerField(default=0)
    back_minor = models.BigIntegerField(default=0)
    status = models.TextField(choices=Status, default=Status.ORDERED)
    transfer_id = models.TextField(default="")
    failure = models.TextField(default="")
    attempt = models.PositiveIntegerField(default=0)
    tries = models.PositiveIntegerField(default=0)
    due_at = models.DateTimeField(db_default=Now())
    idempotency_key = models.TextField()
    created_at = models.DateTimeField(db_default=Now())
    done_at = models.DateTimeField(null=True)

    class Meta:
        indexes = [models.Index("due_at", condition=Q(status="ordered"), name="payout_due")]
        constraints = [
            models.UniqueConstraint(fields=["purse", "idempotency_key"], name="payout_once"),
            models.UniqueConstraint(fields=["transfer_id"], condition=~Q(transfer_id=""), name="payout_transfer_once"),
            models.CheckConstraint(
                condition=Q(amount__gt=0, money_minor__gt=0, back__gte=0, back_minor__gte=0)
                & Q(back__lte=F("amount"), back_minor__lte=F("money_minor")),
                name="payout_in_range",
            ),
            models.CheckConstraint(
                condition=Q(status="ordered", transfer_id="", done_at=None, back=0)
                | Q(status="paid", transfer_id__gt="", done_at__isnull=False)
                | Q(status="failed", transfer_id="", failure__gt="", done_at__isnull=False, back=F("amount"))
                | Q(status="reversed", transfer_id__gt="", done_at__isnull=False, back=F("amount")),
                name="payout_done_says_how",
            ),
        ]

    def __str__(self) -> str:
        return f"payout {self.id}"
