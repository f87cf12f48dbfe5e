"""The operator's pages for wallets, transfers, holds and price lists. Operators ask for acts; `approvals` does them."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.contrib.admin import SimpleListFilter
from django.db.models import OuterRef, Q, QuerySet, Subquery
from django.http import HttpRequest, HttpResponse
from django.utils.html import format_html_join
from django.utils.safestring import SafeString
from unfold.decorators import action

from billing.amounts import format_tokens, show_money
from billing.models import (
    MINT_ID,
    PLATFORM_ID,
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
    ReadOnlyTable,
    accounts_of,
    as_uuid,
    column,
    email_of,
    link,
    link_to_list,
    mono,
    tokens,
    tokens_of,
)
from marketplace.jobs.models import Job


@admin.register(Wallet)
class WalletAdmin(ReadOnlyTable):
    list_display = ("wallet", "kind", "owner_shown", "available", "held_shown", "balance_shown", "state", "created_at")
    search_fields = ("owner",)
    search_help_text = "Account id or full e-mail address"
    fields = (
        "kind", "owner_shown", "state", "available", "held_shown", "balance_shown", "lots_shown", "created_at",
        "debts", "incoming", "outgoing",
    )  # fmt: skip
    readonly_fields = fields

    def get_queryset(self, request: HttpRequest) -> QuerySet[Wallet]:
        rows: QuerySet[Wallet] = super().get_queryset(request)
        return rows.annotate(email=email_of(OuterRef("owner")))

    def search(self, rows: QuerySet[Wallet], term: str) -> QuerySet[Wallet]:
        return rows.filter(owner__in=accounts_of(term))

    @column("Wallet")
    def wallet(self, wallet: Wallet) -> str:
        return f"Wallet {wallet.pk}"

    @column("Owner")
    def owner_shown(self, wallet: Any) -> SafeString | str:
        return link(Account, wallet.owner, wallet.email or wallet.owner) if wallet.owner else NOTHING

    @column("Available")
    def available(self, wallet: Wallet) -> str:
        return _stored(wallet, wallet.balance - wallet.held)

    @column("Held")
    def held_shown(self, wallet: Wallet) -> str:
        return _stored(wallet, wallet.held)

    @column("Balance")
    def balance_shown(self, wallet: Wallet) -> str:
        is_stored = wallet.kind == Wallet.Kind.CUSTOMER
        return tokens(wallet.balance if is_stored else rollups.balance(wallet.pk) or 0)

    @column("State", label={"frozen": "danger"})
    def state(self, wallet: Wallet) -> str:
        return "frozen" if wallet.frozen else NOTHING

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

    @column("Tokens in")
    def incoming(self, wallet: Wallet) -> SafeString:
        return link_to_list(Transfer, "Transfers to this wallet", target=wallet.pk)

    @column("Tokens out")
    def outgoing(self, wallet: Wallet) -> SafeString:
        return link_to_list(Transfer, "Transfers from this wallet", source=wallet.pk)


class KindFilter(SimpleListFilter):
    """A filter by kind; grants and refunds have one source each, so the index by source finds them."""

    title = "kind"
    parameter_name = "kind"
    sources = {Transfer.Kind.GRANT: MINT_ID, Transfer.Kind.REFUND: PLATFORM_ID}

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(kind.value, str(kind.label)) for kind in Transfer.Kind]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Transfer]) -> QuerySet[Transfer]:
        kind = self.value()
        if kind not in Transfer.Kind.values:
            return queryset
        source = self.sources.get(Transfer.Kind(kind))
        return queryset.filter(Q(kind=kind), Q(source=source) if source else Q())


@admin.register(Transfer)
class TransferAdmin(ReadOnlyTable):
    list_display = ("transfer", "kind_shown", "amount_shown", "source_shown", "target_shown", "of", "created_at")
    list_filter = (KindFilter,)
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

    @column("Transfer")
    def transfer(self, transfer: Transfer) -> str:
        return f"Transfer {transfer.pk}"

    @column("Kind", label={"grant": "success", "capture": "info", "refund": "warning"})
    def kind_shown(self, transfer: Transfer) -> str:
        return transfer.kind

    @column("From")
    def source_shown(self, transfer: Any) -> SafeString:
        return link(Wallet, transfer.source_id, transfer.source_email or transfer.source.kind)

    @column("To")
    def target_shown(self, transfer: Any) -> SafeString:
        return link(Wallet, transfer.target_id, transfer.target_email or transfer.target.kind)

    @column("Job or top-up")
    def of(self, transfer: Any) -> SafeString | str:
        if transfer.top_up is not None:
            return link(TopUp, transfer.top_up, f"Top-up {transfer.top_up}")
        of_job = transfer.kind in (Transfer.Kind.CAPTURE, Transfer.Kind.REFUND)
        return link(Job, transfer.reference, f"Job {transfer.reference}") if of_job else NOTHING


class OpenFilter(SimpleListFilter):
    """A filter for open holds, which are few and have their own index; the other holds are most of the table."""

    title = "state"
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("open", "Open")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Hold]) -> QuerySet[Hold]:
        return queryset.filter(status=Hold.Status.HELD) if self.value() == "open" else queryset


@admin.register(Hold)
class HoldAdmin(ReadOnlyTable):
    list_display = (
        "hold", "status_shown", "owner_shown", "amount_shown", "captured_shown", "refunded_shown", "job", "created_at",
    )  # fmt: skip
    list_filter = (OpenFilter,)
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

    def get_queryset(self, request: HttpRequest) -> QuerySet[Hold]:
        rows: QuerySet[Hold] = super().get_queryset(request).select_related("wallet")
        return rows.annotate(email=email_of(OuterRef("wallet__owner")))

    def search(self, rows: QuerySet[Hold], term: str) -> QuerySet[Hold]:
        return rows.filter(reference=reference) if (reference := as_uuid(term)) else rows.none()

    @column("Hold")
    def hold(self, hold: Hold) -> str:
        return f"Hold {hold.pk}"

    @column(
        "Status",
        label={"held": "info", "captured": "success", "released": "warning", "expired": "danger"},
    )
    def status_shown(self, hold: Hold) -> str:
        return hold.status

    @column("Wallet")
    def owner_shown(self, hold: Any) -> SafeString:
        return link(Wallet, hold.wallet_id, hold.email or f"Wallet {hold.wallet_id}")

    @column("Job")
    def job(self, hold: Hold) -> SafeString:
        return link(Job, hold.reference, mono(hold.reference))


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

    @action(  # type: ignore[untyped-decorator]
        description="New version",
        permissions=["ask_prices"],
        icon="add",
        dialog=dialogs.dialog("New price list", dialogs.PriceListForm, dialogs.SECOND_PERSON),
    )
    def new_version(self, request: HttpRequest, form: dialogs.PriceListForm) -> HttpResponse:
        return dialogs.ask(request, form)

    @column("Price list")
    def name(self, row: PriceListVersion) -> str:
        return f"Version {row.version}"

    @column("State", label={"in force": "success"})
    def in_force(self, row: PriceListVersion) -> str:
        return "in force" if row.version == price_lists.current().version else "superseded"

    @column("Prompt floor")
    def prompt_floor_shown(self, row: PriceListVersion) -> str:
        return f"{row.prompt_floor} characters"

    @column("Service classes")
    def classes(self, row: PriceListVersion) -> SafeString:
        return _factors(row.service_classes)

    @column("Operations")
    def operations_shown(self, row: PriceListVersion) -> SafeString:
        return _factors(row.operations)

    @column("Skipped step")
    def skipped_shown(self, row: PriceListVersion) -> str:
        return f"× {format_tokens(row.skipped_step)} of a step that was run"


def _stored(wallet: Wallet, amount: int) -> str:
    return tokens(amount) if wallet.kind == Wallet.Kind.CUSTOMER else NOTHING


def _factors(thousandths: dict[str, int]) -> SafeString:
    pairs = ((name, format_tokens(factor)) for name, factor in thousandths.items())
    return format_html_join("", '<div class="kiln-factor">{} × {}</div>', pairs)
