"""The operator's pages for wallets, transfers, holds and price lists. Operators ask for acts; `approvals` does them."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import OuterRef, Q, QuerySet, Subquery
from django.http import HttpRequest
from django.utils.html import format_html_join
from django.utils.safestring import SafeString

from billing.amounts import format_tokens, show_money
from billing.models import (
    MINT_ID,
    Clawback,
    Hold,
    PriceListVersion,
    TopUp,
    Transfer,
    Wallet,
)
from billing.prices import price_lists
from billing.tokens import lots, rollups
from marketplace.accounts.models import Account
from marketplace.console import dialogs
from marketplace.console.tables import (
    NOTHING,
    OwnedTable,
    ReadOnlyTable,
    as_uuid,
    choices,
    column,
    column_of,
    email_of,
    link,
    link_to_list,
    mono,
    tokens,
    tokens_of,
)
from marketplace.jobs.models import Job


@admin.register(Wallet)
class WalletAdmin(OwnedTable):
    list_display = ("wallet", "kind", "owner_shown", "available", "held_shown", "balance_shown", "state", "created_at")
    search_fields = ("owner",)
    search_help_text = "Account id or full e-mail address"
    fields = (
        "kind", "owner_shown", "state", "available", "held_shown", "balance_shown", "lots_shown", "created_at",
        "debts", "incoming", "outgoing",
    )  # fmt: skip
    readonly_fields = fields

    wallet = column_of("Wallet", lambda row: f"Wallet {row.pk}")

    @column("Owner")
    def owner_shown(self, wallet: Any) -> SafeString | str:
        return link(Account, wallet.owner, wallet.email or wallet.owner) if wallet.owner else NOTHING

    available = column_of("Available", lambda row: _stored(row, row.balance - row.held))
    held_shown = column_of("Held", lambda row: _stored(row, row.held))

    @column("Balance")
    def balance_shown(self, wallet: Wallet) -> str:
        is_stored = wallet.kind == Wallet.Kind.CUSTOMER
        return tokens(wallet.balance if is_stored else rollups.balance(wallet.pk) or 0)

    state = column_of("State", lambda row: "frozen" if row.frozen else NOTHING, {"frozen": "danger"})

    @column("Lots")
    def lots_shown(self, wallet: Wallet) -> SafeString | str:
        """List the wallet's lots in the order in which they are spent."""
        if wallet.kind != Wallet.Kind.CUSTOMER:
            return NOTHING
        lines = (
            (
                f"{tokens(lot.remaining)} of {tokens(lot.amount)}",
                lot.kind if lot.price_minor is None else f"paid, {show_money(lot.price_minor, lot.currency)}",
                f"until {lot.expires_at:%Y-%m-%d %H:%M} UTC" if lot.expires_at else "no expiry",
                link(Transfer, lot.transfer_id, f"Transfer {lot.transfer_id}"),
            )
            for lot in lots.allocate(wallet.pk).lots
        )
        return format_html_join("", '<div class="kiln-break">{} · {} · {} · {}</div>', lines) or NOTHING

    @column("Debts")
    def debts(self, wallet: Wallet) -> SafeString | str:
        return link_to_list(Clawback, "Debts of this account", q=wallet.owner) if wallet.owner else NOTHING

    incoming = column_of("Tokens in", lambda row: link_to_list(Transfer, "Transfers to this wallet", target=row.pk))
    outgoing = column_of("Tokens out", lambda row: link_to_list(Transfer, "Transfers from this wallet", source=row.pk))


# All grants have one source, so the index by source finds them.
SOURCES = {Transfer.Kind.GRANT: Q(source=MINT_ID)}
KINDS = {kind.value: (str(kind.label), SOURCES.get(kind, Q()) & Q(kind=kind)) for kind in Transfer.Kind}


@admin.register(Transfer)
class TransferAdmin(ReadOnlyTable):
    list_display = ("transfer", "kind_shown", "amount_shown", "source_shown", "target_shown", "of", "created_at")
    list_filter = (choices("kind", KINDS),)
    search_fields = ("reference",)
    search_help_text = "Job or top-up id, or idempotency key"
    fields = (
        "kind_shown", "amount_shown", "source_shown", "target_shown", "of", "memo", "idempotency_key", "created_at",
    )  # fmt: skip
    readonly_fields = fields
    amount_shown = tokens_of("amount", "Amount")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Transfer]:
        rows: QuerySet[Transfer] = super().get_queryset(request).select_related("source", "target")
        return rows.annotate(
            source_email=email_of(OuterRef("source__owner")),
            target_email=email_of(OuterRef("target__owner")),
            top_up=Subquery(TopUp.objects.filter(pk=OuterRef("reference")).values("pk")),
        )

    def search(self, rows: QuerySet[Transfer], term: str) -> QuerySet[Transfer]:
        reference = as_uuid(term)
        return rows.filter(idempotency_key=term) if reference is None else rows.filter(reference=reference)

    transfer = column_of("Transfer", lambda row: f"Transfer {row.pk}")
    kind_shown = column_of("Kind", "kind", {"grant": "success", "capture": "info", "refund": "warning"})
    source_shown = column_of("From", lambda row: link(Wallet, row.source_id, row.source_email or row.source.kind))
    target_shown = column_of("To", lambda row: link(Wallet, row.target_id, row.target_email or row.target.kind))

    @column("Job or top-up")
    def of(self, transfer: Any) -> SafeString | str:
        if transfer.top_up is not None:
            return link(TopUp, transfer.top_up, f"Top-up {transfer.top_up}")
        of_job = transfer.kind in (Transfer.Kind.CAPTURE, Transfer.Kind.REFUND)
        return link(Job, transfer.reference, f"Job {transfer.reference}") if of_job else NOTHING


@admin.register(Hold)
class HoldAdmin(OwnedTable):
    list_display = (
        "hold", "status_shown", "owner_shown", "amount_shown", "captured_shown", "refunded_shown", "job", "created_at",
    )  # fmt: skip
    # open holds are few and have their own index; the others are most of the table
    list_filter = (choices("state", {"open": ("Open", Q(status=Hold.Status.HELD))}),)
    owner = "wallet__owner"
    search_fields = ("reference",)
    search_help_text = "Job id"
    fields = (
        "status_shown", "owner_shown", "amount_shown", "captured_shown", "refunded_shown", "job",
        "created_at", "expires_at", "resolved_at",
    )  # fmt: skip
    readonly_fields = fields
    amount_shown = tokens_of("amount", "Held")
    captured_shown = tokens_of("captured", "Captured")
    refunded_shown = tokens_of("refunded", "Refunded")

    def search(self, rows: QuerySet[Hold], term: str) -> QuerySet[Hold]:
        return rows.filter(reference=reference) if (reference := as_uuid(term)) else rows.none()

    hold = column_of("Hold", lambda row: f"Hold {row.pk}")

    status_shown = column_of(
        "Status", "status", {"held": "info", "captured": "success", "released": "warning", "expired": "danger"}
    )
    owner_shown = column_of("Wallet", lambda row: link(Wallet, row.wallet_id, row.email or f"Wallet {row.wallet_id}"))
    job = column_of("Job", lambda row: link(Job, row.reference, mono(row.reference)))


@admin.register(PriceListVersion)
class PriceListAdmin(dialogs.AskPermissions, ReadOnlyTable):
    list_display = (
        "name",
        "in_force",
        "base_cost_shown",
        "prompt_floor_shown",
        "classes",
        "operations_shown",
        "created_at",
    )
    fields = (
        "name", "in_force", "base_cost_shown", "prompt_floor_shown", "classes", "operations_shown", "skipped_shown",
        "created_at",
    )  # fmt: skip
    readonly_fields = fields
    base_cost_shown = tokens_of("base_cost", "Base cost")
    actions_list = ("new_version",)

    new_version = dialogs.asking("New version", "add", dialogs.PriceListForm, "New price list", dialogs.SECOND_PERSON)
    name = column_of("Price list", lambda row: f"Version {row.version}")

    in_force = column_of(
        "State",
        lambda row: "in force" if row.version == price_lists.current().version else "superseded",
        {"in force": "success"},
    )
    prompt_floor_shown = column_of("Prompt floor", lambda row: f"{row.prompt_floor} characters")
    classes = column_of("Service classes", lambda row: _factors(row.service_classes))
    operations_shown = column_of("Operations", lambda row: _factors(row.operations))
    skipped_shown = column_of("Skipped step", lambda row: f"× {format_tokens(row.skipped_step)} of a step that was run")


def _stored(wallet: Wallet, amount: int) -> str:
    return tokens(amount) if wallet.kind == Wallet.Kind.CUSTOMER else NOTHING


def _factors(thousandths: dict[str, int]) -> SafeString:
    pairs = ((name, format_tokens(factor)) for name, factor in thousandths.items())
    return format_html_join("", '<div class="kiln-factor">{} × {}</div>', pairs)
