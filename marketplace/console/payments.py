"""The operator's pages for card payments: packs, top-ups, automatic top-ups, and debts from payments that went back."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django.contrib import admin
from django.db.models import OuterRef, Q, QuerySet, Subquery
from django.http import HttpRequest
from django.utils.safestring import SafeString

from billing.amounts import format_money, show_money
from billing.models import AutomaticTopUp, Clawback, Pack, Payer, TopUp, Transfer
from billing.payments import automatic
from billing.prices import packs
from marketplace.accounts.models import Account
from marketplace.console import dialogs
from marketplace.console.tables import (
    NOTHING,
    OwnedTable,
    ReadOnlyTable,
    accounts_of,
    as_uuid,
    choices,
    column,
    column_of,
    link,
    link_to_list,
    mono,
    tokens,
    tokens_of,
)


@admin.register(Pack)
class PackAdmin(dialogs.AskPermissions, ReadOnlyTable):
    """The pages of Token packs. New terms make a new version; all that changes in a version is whether it is sold."""

    list_display = ("pack", "state", "tokens_shown", "bonus_shown", "prices_shown", "created_at")
    fields = list_display
    readonly_fields = fields
    tokens_shown = tokens_of("tokens", "Tokens")
    bonus_shown = tokens_of("bonus", "Bonus")
    actions_list = ("new_pack",)
    actions_detail = ("new_version", "stop_sale")

    new_pack = dialogs.asking("New pack", "add", dialogs.PackForm, "New pack", dialogs.SECOND_PERSON)
    new_version = dialogs.asking(
        "Sell on new terms", "edit", dialogs.PackForm, "Sell on new terms", dialogs.SECOND_PERSON
    )

    stop_sale = dialogs.stopping("pack", "Open top-ups keep it.", packs.stop)
    pack = column_of("Pack", str)
    state = column_of("State", lambda row: "on sale" if row.active else "off sale", {"on sale": "success"})

    @column("Prices")
    def prices_shown(self, pack: Pack) -> str:
        return ", ".join(show_money(price, name) for name, price in sorted(pack.prices.items()))


@admin.register(TopUp)
class TopUpAdmin(dialogs.AskPermissions, OwnedTable):
    list_display = ("top_up", "status_shown", "owner_shown", "pack", "price", "refunded", "created_at", "paid_at")
    list_select_related = ("pack",)
    search_fields = ("id",)
    actions_detail = ("refund",)
    search_help_text = "Top-up or account id, full e-mail address, or Stripe's session id (cs_…) or payment id (pi_…)"
    fields = (
        "status_shown", "owner_shown", "pack", "price", "refunded", "automatic", "failure", "payment", "session_id",
        "payment_intent",
        "created_at", "expires_at", "paid_at",
    )  # fmt: skip
    readonly_fields = fields

    def search(self, rows: QuerySet[TopUp], term: str) -> QuerySet[TopUp]:
        if term.startswith("cs_"):
            return rows.filter(session_id=term)
        if term.startswith("pi_"):
            return rows.filter(payment_intent=term)
        return rows.filter(Q(pk=as_uuid(term)) | Q(owner__in=accounts_of(term)))

    def offers(self, row: TopUp) -> bool:
        """Offer a refund only for a top-up that was paid."""
        return row.paid_at is not None

    refund = dialogs.asking(
        "Refund", "undo", dialogs.PaymentRefundForm, "Refund this top-up",
        "Refunds unspent Tokens to the card that paid. Above your limit, a second person must approve.",
    )  # fmt: skip

    top_up = column_of("Top-up", lambda row: mono(row.pk))

    status_shown = column_of(
        "Status",
        "status",
        {"paid": "success", "disputed": "danger", "refunded": "warning", "partially_refunded": "warning"},
    )
    owner_shown = column_of("Account", lambda row: link(Account, row.owner, row.email or row.owner))
    price = column_of("Price", lambda row: show_money(row.price_minor, row.currency))

    @column("Refunded")
    def refunded(self, row: TopUp) -> str:
        return format_money(row.refunded_minor, row.currency) if row.refunded_minor else NOTHING

    payment = column_of("Transfers", lambda row: link_to_list(Transfer, "Transfers of this top-up", q=row.pk))


@admin.register(AutomaticTopUp)
class AutomaticTopUpAdmin(OwnedTable):
    list_display = (
        "account",
        "status_shown",
        "reason_shown",
        "pack",
        "price",
        "threshold_shown",
        "cap",
        "card",
        "retry_at",
    )
    list_select_related = ("pack",)
    search_fields = ("owner",)
    search_help_text = "Account id or full e-mail address"
    fields = (
        "account", "status_shown", "reason_shown", "pack", "price", "threshold_shown", "cap", "spent", "capped_until",
        "card", "failures", "retry_at", "top_ups", "created_at",
    )  # fmt: skip
    readonly_fields = fields
    threshold_shown = tokens_of("threshold", "Threshold")

    def get_queryset(self, request: HttpRequest) -> QuerySet[AutomaticTopUp]:
        card = Subquery(Payer.objects.filter(pk=OuterRef("owner")).values("card")[:1])
        rows: QuerySet[AutomaticTopUp] = super().get_queryset(request).annotate(saved=card)
        return rows

    account = column_of("Account", lambda row: link(Account, row.owner, row.email or row.owner))
    status_shown = column_of("Status", "status", {"on": "success", "waiting_for_card": "warning", "off": "danger"})
    reason_shown = column_of("Why it is off", lambda row: row.reason or NOTHING)
    price = column_of("Price", lambda row: show_money(row.pack.prices[row.currency], row.currency))
    cap = column_of("Daily cap", lambda row: format_money(row.daily_cap_minor, row.currency))

    @column("Of it spent")
    def spent(self, row: AutomaticTopUp) -> str:
        return format_money(automatic.spent(row), row.currency)

    @column("Stopped by the cap until")
    def capped_until(self, row: AutomaticTopUp) -> datetime | str:
        return automatic.capped_until(row) or NOTHING

    @column("Card")
    def card(self, row: Any) -> str:
        return "{brand} …{last4}, {exp_month:02}/{exp_year}".format(**row.saved) if row.saved else NOTHING

    top_ups = column_of("Top-ups", lambda row: link_to_list(TopUp, "Top-ups of this account", q=row.owner))


@admin.register(Clawback)
class ClawbackAdmin(dialogs.AskPermissions, OwnedTable):
    """The pages of claw-backs, with what is still owed of each; an open debt freezes its account."""

    list_display = ("claw_back", "state", "account", "amount_shown", "owed_shown", "reason", "created_at")
    list_filter = (choices("state", {"open": ("Owed", Q(settled_at=None))}),)
    list_select_related = ("lot__wallet", "lot__transfer")
    owner = "lot__wallet__owner"
    ordering = ("-created_at",)
    search_fields = ("id",)
    search_help_text = "Claw-back or account id, or full e-mail address"
    actions_detail = ("waive",)
    fields = (
        "state", "account", "amount_shown", "collected_shown", "owed_shown", "reason", "waiver", "top_up",
        "created_at", "settled_at",
    )  # fmt: skip
    readonly_fields = fields
    amount_shown = tokens_of("amount", "Demanded")
    collected_shown = tokens_of("collected", "Taken")

    def search(self, rows: QuerySet[Clawback], term: str) -> QuerySet[Clawback]:
        return rows.filter(Q(pk=as_uuid(term)) | Q(lot__wallet__owner__in=accounts_of(term)))

    def offers(self, row: Clawback) -> bool:
        """Offer a waiver only for a debt that is still open."""
        return row.settled_at is None

    waive = dialogs.asking(
        "Waive", "volunteer_activism", dialogs.WaiverForm, "Waive this debt",
        "Forgives what is still owed. Above your limit, a second person must approve.",
    )  # fmt: skip

    claw_back = column_of("Claw-back", lambda row: mono(row.pk))

    state = column_of(
        "State", lambda row: row.settlement or "owed", {"owed": "danger", "waived": "warning", "void": "warning"}
    )
    account = column_of("Account", lambda row: link(Account, row.lot.wallet.owner, row.email or row.lot.wallet.owner))
    owed_shown = column_of("Owed", lambda row: NOTHING if row.settled_at else tokens(row.owed))

    @column("Top-up")
    def top_up(self, row: Clawback) -> SafeString | str:
        payment = row.lot.transfer.reference
        return link(TopUp, payment, mono(payment)) if payment else NOTHING
