"""The tables of Tokens and prices, with the constraints that hold whoever writes to them.

Not for behaviour: `wallets` moves Tokens, `ledger` alone writes transfers, `lots` tells which lots they drew on,
`spending` and `rollups` add up, `debts` claws back, `price_lists` publishes prices. Amounts are integer milli-Tokens,
money is in the currency's smallest unit (`_minor`). Rules that constraints cannot express (append-only, resolved once)
are enforced by triggers, in the migrations `guards`, `lot_guards` and `spending`.
"""

from __future__ import annotations

from uuid import uuid4

from django.contrib.postgres.functions import RandomUUID
from django.contrib.postgres.indexes import BrinIndex
from django.db import models
from django.db.models import F, Func, Q
from django.db.models.functions import Now
from django.utils import timezone

# Fixed by the migration `guards`, so that no statement has to look them up.
MINT_ID = 1
PLATFORM_ID = 2


class Wallet(models.Model):
    """An owner's Tokens.

    Only a customer's wallet stores its balance; the others are summed from their transfers, so that no transfer has to
    lock the row of a busy wallet.
    """

    class Kind(models.TextChoices):
        CUSTOMER = "customer"
        CREATOR = "creator"
        PLATFORM = "platform"
        MINT = "mint"

    owner = models.UUIDField(null=True)
    kind = models.TextField(choices=Kind, db_default=Kind.CUSTOMER)
    balance = models.BigIntegerField(db_default=0)
    held = models.BigIntegerField(db_default=0)
    # True while a debt is open; nothing new can be held then.
    frozen = models.BooleanField(db_default=False)
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["owner", "kind"], nulls_distinct=False, name="wallet_one_of_a_kind_per_owner"
            ),
            models.CheckConstraint(
                condition=Q(kind__in=["customer", "creator"], owner__isnull=False)
                | Q(kind__in=["platform", "mint"], owner__isnull=True),
                name="wallet_kind_has_owner",
            ),
            models.CheckConstraint(condition=Q(held__gte=0, balance__gte=F("held")), name="wallet_never_overdrawn"),
            models.CheckConstraint(
                condition=Q(kind="customer") | Q(balance=0, held=0), name="wallet_summed_stores_nothing"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.owner or ''}".strip()


class Transfer(models.Model):
    """Tokens moved from one wallet to another; never changed or deleted.

    The wallets are not database foreign keys: checking them would take a shared lock on the platform's row in every
    capture, and rewrite it. Wallets cannot be deleted, and `proof.check` finds transfers without one.
    """

    class Kind(models.TextChoices):
        GRANT = "grant"
        PURCHASE = "purchase"
        CAPTURE = "capture"
        REFUND = "refund"
        EXPIRY = "expiry"
        CLAWBACK = "clawback"
        SETTLEMENT = "settlement"
        EXCHANGE = "exchange"
        TAKEBACK = "takeback"
        GIVEBACK = "giveback"
        ADVANCE = "advance"
        RECOVERY = "recovery"
        PAYOUT = "payout"
        PAYOUT_RETURN = "payout_return"

    # The kinds with a customer at one end.
    CUSTOMER_KINDS = Kind.choices[:8]

    source = models.ForeignKey(Wallet, models.PROTECT, related_name="outgoing", db_constraint=False, db_index=False)
    target = models.ForeignKey(Wallet, models.PROTECT, related_name="incoming", db_constraint=False, db_index=False)
    amount = models.BigIntegerField()
    kind = models.TextField(choices=Kind)
    reference = models.UUIDField(null=True)
    idempotency_key = models.TextField()
    memo = models.TextField(db_default="")
    # The balance of the customer's wallet after this transfer; null where neither of the two is a customer's.
    balance = models.BigIntegerField(null=True)
    # Read once the wallet is locked, so that times of one wallet never go back (the migration `closed_months`).
    created_at = models.DateTimeField(db_default=Func(function="billing_moment"))

    class Meta:
        indexes = [
            models.Index("source", "id", name="transfer_by_source"),
            models.Index("target", "id", name="transfer_by_target"),
            models.Index("reference", condition=Q(reference__isnull=False), name="transfer_by_reference"),
            # Rows are appended in order of time, so a few bytes per hundred pages are enough to find those of a day.
            BrinIndex("created_at", autosummarize=True, name="transfer_by_time"),
        ]
        constraints = [
            # Not unique=True on the field, which would add a second index for LIKE.
            models.UniqueConstraint(fields=["idempotency_key"], name="transfer_key_once"),
            models.CheckConstraint(condition=Q(amount__gt=0), name="transfer_amount_positive"),
            models.CheckConstraint(condition=~Q(source=F("target")), name="transfer_between_two"),
            models.CheckConstraint(
                condition=Q(kind__in=["grant", "purchase"])
                | Q(kind__in=["capture", "refund", "expiry", "clawback", "settlement"], reference__isnull=False)
                | Q(kind__in=["exchange", "takeback", "giveback", "payout", "payout_return"], reference__isnull=False)
                | Q(kind__in=["advance", "recovery"]),
                name="transfer_kind_has_reference",
            ),
            models.CheckConstraint(
                condition=Q(
                    kind__in=["takeback", "giveback", "advance", "recovery", "payout", "payout_return"], balance=None
                )
                | Q(
                    kind__in=["grant", "purchase", "capture", "refund", "expiry", "clawback", "settlement", "exchange"],
                    balance__isnull=False,
                ),
                name="transfer_of_a_customer_has_balance",
            ),
            models.CheckConstraint(condition=~Q(idempotency_key=""), name="transfer_key_not_empty"),
            models.CheckConstraint(condition=Q(balance__gte=0), name="transfer_never_overdraws"),
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.id}"


class Rollup(models.Model):
    """The sum of the transfers of a wallet that stores no balance, up to a mark that only moves forward."""

    wallet = models.OneToOneField(Wallet, models.PROTECT, primary_key=True, related_name="rollup")
    balance = models.BigIntegerField()
    last_transfer_id = models.BigIntegerField()

    class Meta:
        constraints = [models.CheckConstraint(condition=Q(last_transfer_id__gt=0), name="rollup_has_a_mark")]

    def __str__(self) -> str:
        return f"wallet {self.pk} up to transfer {self.last_transfer_id}"


class Hold(models.Model):
    """Tokens of one wallet set aside for one reference: captured, released or expired, exactly once."""

    class Status(models.TextChoices):
        HELD = "held"
        CAPTURED = "captured"
        RELEASED = "released"
        EXPIRED = "expired"

    wallet = models.ForeignKey(Wallet, models.PROTECT, related_name="holds", db_index=False)
    reference = models.UUIDField(unique=True)
    # The id of the API key that spends on the owner's behalf.
    spender = models.UUIDField(null=True)
    amount = models.BigIntegerField()
    status = models.TextField(choices=Status, db_default=Status.HELD)
    captured = models.BigIntegerField(db_default=0)
    refunded = models.BigIntegerField(db_default=0)
    created_at = models.DateTimeField(db_default=Now())
    expires_at = models.DateTimeField()
    resolved_at = models.DateTimeField(null=True)

    class Meta:
        indexes = [
            models.Index("expires_at", condition=Q(status="held"), name="hold_due"),
            models.Index("spender", condition=Q(status="held", spender__isnull=False), name="hold_by_spender"),
        ]
        constraints = [
            models.CheckConstraint(condition=Q(amount__gt=0), name="hold_amount_positive"),
            models.CheckConstraint(condition=Q(captured__lte=F("amount")), name="hold_captured_within_amount"),
            models.CheckConstraint(
                condition=Q(refunded__gte=0, refunded__lte=F("captured")),
                name="hold_refunded_within_captured",
            ),
            models.CheckConstraint(
                condition=Q(status="captured", captured__gt=0)
                | Q(status__in=["held", "released", "expired"], captured=0),
                name="hold_captured_says_so",
            ),
            models.CheckConstraint(
                condition=Q(status="held", resolved_at__isnull=True)
                | (~Q(status="held") & Q(resolved_at__isnull=False)),
                name="hold_resolved_has_time",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.status} {self.reference}"


class Lot(models.Model):
    """Tokens that came in together, by one transfer and on the same terms.

    `remaining`, and `spent_minor`, the part of the price that belongs to the drawn Tokens, are as of the wallet's
    LotCursor; a lot whose transfer is beyond the cursor is still whole.
    """

    class Kind(models.TextChoices):
        GRANTED = "granted"
        PAID = "paid"

    id = models.UUIDField(primary_key=True, db_default=RandomUUID())
    wallet = models.ForeignKey(Wallet, models.PROTECT, related_name="lots", db_index=False)
    transfer = models.OneToOneField(Transfer, models.PROTECT, related_name="lot", db_constraint=False)
    kind = models.TextField(choices=Kind)
    amount = models.BigIntegerField()
    remaining = models.BigIntegerField()
    price_minor = models.BigIntegerField(null=True)
    currency = models.TextField(db_default="")
    spent_minor = models.BigIntegerField(db_default=0)
    expires_at = models.DateTimeField(null=True)
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        indexes = [
            models.Index("wallet", condition=Q(remaining__gt=0), name="lot_open"),
            models.Index("expires_at", condition=Q(remaining__gt=0), name="lot_due"),
        ]
        constraints = [
            models.CheckConstraint(
                condition=Q(amount__gt=0, remaining__gte=0, remaining__lte=F("amount")), name="lot_within_amount"
            ),
            models.CheckConstraint(
                condition=Q(kind="granted", price_minor__isnull=True, currency="", spent_minor=0)
                | Q(kind="paid", price_minor__gt=0, currency__regex="^[a-z]{3}$"),
                name="lot_kind_has_price",
            ),
            models.CheckConstraint(
                condition=Q(spent_minor__gte=0) & (Q(price_minor=None) | Q(spent_minor__lte=F("price_minor"))),
                name="lot_spent_within_price",
            ),
            models.CheckConstraint(
                condition=Q(remaining__gt=0) | Q(price_minor=None) | Q(spent_minor=F("price_minor")),
                name="lot_empty_is_paid_for",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.kind} lot {self.id}"


class Draw(models.Model):
    """The Tokens and money that one transfer took from one lot; negative if a refund put them back."""

    lot = models.ForeignKey(Lot, models.PROTECT, related_name="draws")
    transfer = models.ForeignKey(Transfer, models.PROTECT, related_name="draws", db_constraint=False, db_index=False)
    amount = models.BigIntegerField()
    money_minor = models.BigIntegerField()

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["transfer", "lot"], name="draw_once"),
            models.CheckConstraint(
                condition=Q(amount__gt=0, money_minor__gte=0) | Q(amount__lt=0, money_minor__lte=0),
                name="draw_money_follows_amount",
            ),
        ]

    def __str__(self) -> str:
        return f"draw {self.id}"


class LotCursor(models.Model):
    """The last of a wallet's transfers that its lots and Spending include. Its row is locked to change any of them."""

    wallet = models.OneToOneField(Wallet, models.PROTECT, primary_key=True, related_name="lot_cursor")
    last_transfer_id = models.BigIntegerField(db_default=0)

    def __str__(self) -> str:
        return f"wallet {self.pk} up to transfer {self.last_transfer_id}"


class Spending(models.Model):
    """The charges to one spender's holds, less refunds, as of the wallet's LotCursor.

    Kept by the `quarter` of an hour in which a charge was made: days begin at one of these in every time zone.
    """

    wallet = models.ForeignKey(Wallet, models.PROTECT, related_name="spending", db_index=False)
    spender = models.UUIDField(null=True)
    quarter = models.DateTimeField()
    amount = models.BigIntegerField()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["wallet", "quarter", "spender"], nulls_distinct=False, name="spending_once_a_quarter"
            ),
        ]

    def __str__(self) -> str:
        return f"spending of wallet {self.wallet_id} at {self.quarter}"


class Clawback(models.Model):
    """Tokens demanded back because the payment for their lot was refunded or disputed; a debt while some are owed.

    `money_minor` was returned to the payer (0 for a bonus); `amount` milli-Tokens are demanded for it, of which
    `collected` have been taken. A claw-back becomes void if the money came back to us before all was collected, or if
    it demanded less than one milli-Token; a void one counts as having demanded only what was collected.
    """

    class Settlement(models.TextChoices):
        COLLECTED = "collected"
        PAID = "paid"
        WAIVED = "waived"
        VOID = "void"

    id = models.UUIDField(primary_key=True, default=uuid4)
    lot = models.ForeignKey(Lot, models.PROTECT, related_name="clawbacks")
    money_minor = models.BigIntegerField()
    amount = models.BigIntegerField()
    collected = models.BigIntegerField(default=0)
    reason = models.TextField()
    idempotency_key = models.TextField()
    created_at = models.DateTimeField(default=timezone.now)
    settled_at = models.DateTimeField(null=True)
    settlement = models.TextField(choices=Settlement, default="")
    waiver = models.TextField(default="")

    class Meta:
        indexes = [models.Index("lot", condition=Q(settled_at=None), name="clawback_open")]
        constraints = [
            models.UniqueConstraint(fields=["idempotency_key"], name="clawback_key_once"),
            models.CheckConstraint(
                condition=Q(money_minor__gte=0, collected__gte=0, collected__lte=F("amount")),
                name="clawback_within_amount",
            ),
            models.CheckConstraint(
                condition=Q(settled_at__isnull=True, settlement="", waiver="", collected__lt=F("amount"))
                | Q(settled_at__isnull=False, settlement__in=["collected", "paid"], waiver="", collected=F("amount"))
                | (
                    Q(settled_at__isnull=False, settlement__in=["waived", "void"])
                    & (Q(collected__lt=F("amount")) | Q(settlement="void", amount=0))
                    & ~Q(waiver="")
                ),
                name="clawback_settled_says_how",
            ),
        ]

    def __str__(self) -> str:
        return f"claw-back {self.id}"

    @property
    def owed(self) -> int:
        """Return the milli-Tokens that are still demanded."""
        return 0 if self.settled_at else self.amount - self.collected

    @property
    def owed_minor(self) -> int:
        """Return what the owed Tokens cost, in the smallest unit of the lot's currency."""
        return (self.lot.price_minor or 0) * self.owed // self.lot.amount


class PriceListVersion(models.Model):
    """One published price list, in the units of `pricing.PriceList`; a trigger prevents changes."""

    version = models.PositiveIntegerField(primary_key=True)
    base_cost = models.BigIntegerField()
    prompt_floor = models.PositiveIntegerField()
    service_classes = models.JSONField()
    operations = models.JSONField()
    skipped_step = models.PositiveIntegerField()
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=Q(version__gt=0, base_cost__gt=0, prompt_floor__gt=0, skipped_step__lte=1000),
                name="price_list_in_range",
            ),
        ]

    def __str__(self) -> str:
        return f"price list {self.version}"
