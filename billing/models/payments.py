"""The tables of card payments, with the constraints that hold whoever writes to them. Not for behaviour.

Amounts are integer milli-Tokens, money is in the currency's smallest unit (`_minor`). Triggers in the migrations
`packs` and `top_ups` keep the terms of packs and top-ups from changing.
"""

from __future__ import annotations

from django.db import models
from django.db.models import F, Q
from django.db.models.functions import Now


class Pack(models.Model):
    """One version of a pack: `tokens`, and a `bonus` granted with them, for one of `prices`.

    `prices` are minor units by currency code, as Stripe writes it: `{"eur": 500}`. Only `active` ever changes.
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


class TopUp(models.Model):
    """A purchase of one pack, paid or still to be paid. `owner` is the wallet's; the price is the pack version's.

    `order` is what the customer asked for. `session_id` and `url` are empty until Stripe has answered,
    `payment_intent` until the top-up was paid or, if it is `automatic`, tried. Each `attempt` at Stripe has its own
    idempotency keys. `failure` is the code that Stripe gave for a declined card, or because the bank asks.
    """

    class Status(models.TextChoices):
        OPEN = "open"
        PROCESSING = "processing"
        PAID = "paid"
        FAILED = "failed"
        EXPIRED = "expired"
        PARTIALLY_REFUNDED = "partially_refunded"
        REFUNDED = "refunded"
        DISPUTED = "disputed"

    id = models.UUIDField(primary_key=True)
    owner = models.UUIDField()
    pack = models.ForeignKey(Pack, models.PROTECT, related_name="top_ups")
    currency = models.TextField()
    price_minor = models.BigIntegerField()
    status = models.TextField(choices=Status, default=Status.OPEN)
    refunded_minor = models.BigIntegerField(default=0)
    # The tax included in the price, as Stripe reported it; unknown before payment.
    tax_minor = models.BigIntegerField(null=True)
    order = models.JSONField()
    automatic = models.BooleanField(default=False)
    attempt = models.PositiveIntegerField(default=0)
    failure = models.TextField(default="")
    idempotency_key = models.TextField(null=True)  # noqa: DJ001  absent is not empty
    session_id = models.TextField(default="")
    url = models.TextField(default="")
    payment_intent = models.TextField(default="")
    created_at = models.DateTimeField()
    expires_at = models.DateTimeField()
    paid_at = models.DateTimeField(null=True)

    class Meta:
        verbose_name = "top-up"
        indexes = [models.Index("owner", "id", name="topup_by_owner")]
        constraints = [
            models.UniqueConstraint(fields=["owner", "idempotency_key"], name="topup_key_once"),
            models.UniqueConstraint(
                fields=["owner"],
                condition=Q(automatic=True, status__in=["open", "processing"]),
                name="topup_one_automatic_pending",
            ),
            models.UniqueConstraint(fields=["session_id"], condition=~Q(session_id=""), name="topup_session_once"),
            models.UniqueConstraint(
                fields=["payment_intent"], condition=~Q(payment_intent=""), name="topup_payment_once"
            ),
            models.CheckConstraint(
                condition=Q(price_minor__gt=0, refunded_minor__gte=0, refunded_minor__lte=F("price_minor")),
                name="topup_refunded_within_price",
            ),
            models.CheckConstraint(
                condition=Q(status__in=["open", "processing", "failed", "expired"], paid_at=None)
                | Q(
                    status__in=["paid", "partially_refunded", "refunded", "disputed"],
                    paid_at__isnull=False,
                    payment_intent__gt="",
                ),
                name="topup_paid_says_so",
            ),
        ]

    def __str__(self) -> str:
        return f"top-up {self.id}"


class Payer(models.Model):
    """An account as Stripe's customer, with its saved card as people recognize it, never the full number.

    `card_created` is Stripe's time of the newest card that was ever kept. `card_news` is not empty while Stripe is
    still to be asked which card it is now.
    """

    owner = models.UUIDField(primary_key=True)
    customer_id = models.TextField(unique=True)
    card_id = models.TextField(default="")
    card = models.JSONField(default=dict)
    card_created = models.BigIntegerField(default=0)
    card_news = models.TextField(default="")

    class Meta:
        indexes = [models.Index("owner", condition=~Q(card_news=""), name="payer_with_news")]

    def __str__(self) -> str:
        return f"payer {self.customer_id}"


class AutomaticTopUp(models.Model):
    """A standing order to buy this version of a pack whenever fewer than `threshold` milli-Tokens are available.

    It spends at most `daily_cap_minor` in 24 hours. `order` holds the addresses that Stripe's pages lead back to, and
    the e-mail address for receipts. After `failures` in a row it waits until `retry_at`. `card_url` is the page where a
    card is saved.
    """

    class Status(models.TextChoices):
        ON = "on"
        WAITING = "waiting_for_card"
        OFF = "off"

    class Reason(models.TextChoices):
        CARD_DECLINED = "card_declined"
        CARD_EXPIRED = "card_expired"
        CARD_GONE = "card_gone"
        PACK_CHANGED = "pack_changed"

    owner = models.UUIDField(primary_key=True)
    pack = models.ForeignKey(Pack, models.PROTECT, related_name="+")
    currency = models.TextField()
    threshold = models.BigIntegerField()
    daily_cap_minor = models.BigIntegerField()
    status = models.TextField(choices=Status)
    reason = models.TextField(choices=Reason, default="")
    order = models.JSONField()
    card_url = models.TextField(default="")
    failures = models.PositiveIntegerField(default=0)
    retry_at = models.DateTimeField(null=True)
    capped_since = models.DateTimeField(null=True, help_text="since when the cap has stopped the next top-up")
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        verbose_name = "automatic top-up"
        constraints = [
            models.CheckConstraint(
                condition=Q(threshold__gt=0, daily_cap_minor__gt=0), name="automatic_topup_in_range"
            ),
            models.CheckConstraint(
                condition=(Q(status="off") & ~Q(reason="")) | (~Q(status="off") & Q(reason="")),
                name="automatic_topup_off_says_why",
            ),
        ]

    def __str__(self) -> str:
        return f"automatic top-up of {self.owner}"


class Notice(models.Model):
    """Something that `owner` should be told of; whoever tells it removes it. Amounts in `data` are texts."""

    class Kind(models.TextChoices):
        CAP_REACHED = "topup.cap_reached"
        SWITCHED_OFF = "topup.switched_off"
        PAYMENT_FAILED = "payment.failed"
        ACTION_REQUIRED = "payment.action_required"
        PAYOUT_PAID = "payout.paid"
        PAYOUT_FAILED = "payout.failed"
        PAYOUT_REVERSED = "payout.reversed"

    id = models.BigAutoField(primary_key=True)
    owner = models.UUIDField()
    kind = models.TextField(choices=Kind)
    data = models.JSONField()
    created_at = models.DateTimeField(db_default=Now())

    def __str__(self) -> str:
        return f"{self.kind} of {self.owner}"


class Reversal(models.Model):
    """A refund or dispute of one payment, by Stripe's id. It may be known before its payment.

    A dispute may be in another `currency` than its payment, whose whole price it then stands for; empty: the same.

    A refund that we request has an id of our own, since its Tokens are taken first; `stripe_id` is Stripe's, once
    known, and each `attempt` at asking for it has its own idempotency key. `standing` is true while the money is away,
    from `since` until `until`; `final` once that can no longer change; `applied` while Tokens are taken for it.
    """

    class Kind(models.TextChoices):
        REFUND = "refund"
        DISPUTE = "dispute"

    id = models.TextField(primary_key=True)
    kind = models.TextField(choices=Kind)
    payment_intent = models.TextField(db_index=True)
    amount_minor = models.BigIntegerField()
    currency = models.TextField(default="")
    standing = models.BooleanField(default=False)
    since = models.DateTimeField(null=True)
    until = models.DateTimeField(null=True)
    final = models.BooleanField(default=False)
    applied = models.BooleanField(default=False)
    stripe_id = models.TextField(default="")
    attempt = models.PositiveIntegerField(default=0)
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        constraints = [
            models.CheckConstraint(condition=Q(amount_minor__gt=0), name="reversal_in_range"),
            models.CheckConstraint(
                condition=Q(standing=True, since__isnull=False, until=None)
                | Q(standing=False, since=None, until=None)
                | Q(standing=False, since__isnull=False, until__isnull=False),
                name="reversal_stands_since",
            ),
            models.UniqueConstraint(fields=["stripe_id"], condition=~Q(stripe_id=""), name="reversal_stripe_id_once"),
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.id}"


class RefundOrder(models.Model):
    """A payment to refund: written when the decision is made, carried out by `refund_orders`."""

    id = models.TextField(primary_key=True)
    payment_intent = models.TextField()
    due_at = models.DateTimeField(db_default=Now())
    tries = models.PositiveIntegerField(default=0)
    done_at = models.DateTimeField(null=True)
    outcome = models.TextField(default="")
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        indexes = [models.Index("due_at", condition=Q(done_at=None), name="refund_order_due")]
        constraints = [
            models.CheckConstraint(
                condition=Q(done_at=None, outcome="") | (Q(done_at__isnull=False) & ~Q(outcome="")),
                name="refund_order_done_says_how",
            ),
        ]

    def __str__(self) -> str:
        return f"refund order {self.id}"


class StripeEvent(models.Model):
    """A Stripe event that was acted on; written in the same transaction."""

    id = models.TextField(primary_key=True)
    type = models.TextField()
    processed_at = models.DateTimeField(db_default=Now())

    def __str__(self) -> str:
        return f"{self.type} {self.id}"


class Reconciliation(models.Model):
    """A run that examined every event up to `until`; the next run begins there."""

    until = models.DateTimeField()
    seen = models.PositiveIntegerField()
    repaired = models.PositiveIntegerField()

    def __str__(self) -> str:
        return f"reconciliation up to {self.until}"
