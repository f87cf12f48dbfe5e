"""The operator's pages for card payments: packs, top-ups, automatic top-ups, and debts from payments that went back."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.contrib.admin import SimpleListFilter
from django.db.models import OuterRef, Q, QuerySet, Subquery
from django.http import HttpRequest, HttpResponse
from django.utils.safestring import SafeString
from unfold.decorators import action
from unfold.forms import BaseDialogForm

from billing.amounts import format_money, show_money
from billing.models import AutomaticTopUp, Clawback, Pack, Payer, TopUp, Transfer
from billing.prices import packs
from marketplace.accounts.models import Account
from marketplace.audit import trail
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
    operator,
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

    @action(  # type: ignore[untyped-decorator]
        description="New pack",
        permissions=["ask_prices"],
        icon="add",
        dialog=dialogs.dialog("New pack", dialogs.PackForm, dialogs.SECOND_PERSON),
    )
    def new_pack(self, request: HttpRequest, form: dialogs.PackForm) -> HttpResponse:
        return dialogs.ask(request, form)

    @action(  # type: ignore[untyped-decorator]
        description="Sell on new terms",
        permissions=["ask_prices"],
        icon="edit",
        dialog=dialogs.dialog("Sell on new terms", dialogs.PackForm, dialogs.SECOND_PERSON),
    )
    def new_version(self, request: HttpRequest, form: dialogs.PackForm, object_id: str) -> HttpResponse:
        return dialogs.ask(request, form)

    @action(  # type: ignore[untyped-decorator]
        description="Take off sale",
        permissions=["ask_prices"],
        icon="block",
        dialog={
            "title": "Take this pack off sale?",
            "description": "Open top-ups keep it. Selling it again needs a second person.",
            "form_submit_text": "Take off sale",
        },
    )
    def stop_sale(self, request: HttpRequest, form: BaseDialogForm, object_id: str) -> HttpResponse:
        with trail.acting(operator(request)):
            packs.stop(Pack.objects.get(pk=object_id))
        return HttpResponse(headers={"HX-Refresh": "true"})

    @column("Pack")
    def pack(self, pack: Pack) -> str:
        return str(pack)

    @column("State", label={"on sale": "success"})
    def state(self, pack: Pack) -> str:
        return "on sale" if pack.active else "off sale"

    @column("Prices")
    def prices_shown(self, pack: Pack) -> str:
        return ", ".join(show_money(price, name) for name, price in sorted(pack.prices.items()))


@admin.register(TopUp)
class TopUpAdmin(dialogs.AskPermissions, ReadOnlyTable):
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

    def get_queryset(self, request: HttpRequest) -> QuerySet[TopUp]:
        rows: QuerySet[TopUp] = super().get_queryset(request)
        return rows.annotate(email=email_of(OuterRef("owner")))

    def search(self, rows: QuerySet[TopUp], term: str) -> QuerySet[TopUp]:
        if term.startswith("cs_"):
            return rows.filter(session_id=term)
        if term.startswith("pi_"):
            return rows.filter(payment_intent=term)
        return rows.filter(Q(pk=as_uuid(term)) | Q(owner__in=accounts_of(term)))

    def get_actions_detail(self, request: HttpRequest, object_id: Any) -> list[Any]:
        """Offer a refund only for a top-up that was paid."""
        row = self.get_object(request, str(object_id))
        return list(super().get_actions_detail(request, object_id)) if row is not None and row.paid_at else []

    @action(  # type: ignore[untyped-decorator]
        description="Refund",
        permissions=["ask_refund"],
        icon="undo",
        dialog=dialogs.dialog(
            "Refund this top-up",
            dialogs.PaymentRefundForm,
            "Refunds unspent Tokens to the card that paid. Above your limit, a second person must approve.",
        ),
    )
    def refund(self, request: HttpRequest, form: dialogs.PaymentRefundForm, object_id: str) -> HttpResponse:
        return dialogs.ask(request, form)

    @column("Top-up")
    def top_up(self, row: TopUp) -> SafeString:
        return mono(row.pk)

    @column(
        "Status",
        label={"paid": "success", "disputed": "danger", "refunded": "warning", "partially_refunded": "warning"},
    )
    def status_shown(self, row: TopUp) -> str:
        return row.status

    @column("Account")
    def owner_shown(self, row: Any) -> SafeString:
        return link(Account, row.owner, row.email or row.owner)

    @column("Price")
    def price(self, row: TopUp) -> str:
        return show_money(row.price_minor, row.currency)

    @column("Refunded")
    def refunded(self, row: TopUp) -> str:
        return format_money(row.refunded_minor, row.currency) if row.refunded_minor else NOTHING

    @column("Transfers")
    def payment(self, row: TopUp) -> SafeString:
        return link_to_list(Transfer, "Transfers of this top-up", q=row.pk)


@admin.register(AutomaticTopUp)
class AutomaticTopUpAdmin(ReadOnlyTable):
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
        "account", "status_shown", "reason_shown", "pack", "price", "threshold_shown", "cap", "card", "failures",
        "retry_at", "top_ups", "created_at",
    )  # fmt: skip
    readonly_fields = fields
    threshold_shown = tokens_of("threshold", "Threshold")

    def get_queryset(self, request: HttpRequest) -> QuerySet[AutomaticTopUp]:
        rows: QuerySet[AutomaticTopUp] = super().get_queryset(request)
        card = Subquery(Payer.objects.filter(pk=OuterRef("owner")).values("card")[:1])
        return rows.annotate(email=email_of(OuterRef("owner")), saved=card)

    def search(self, rows: QuerySet[AutomaticTopUp], term: str) -> QuerySet[AutomaticTopUp]:
        return rows.filter(owner__in=accounts_of(term))

    @column("Account")
    def account(self, row: Any) -> SafeString:
        return link(Account, row.owner, row.email or row.owner)

    @column("Status", label={"on": "success", "waiting_for_card": "warning", "off": "danger"})
    def status_shown(self, row: AutomaticTopUp) -> str:
        return row.status

    @column("Why it is off")
    def reason_shown(self, row: AutomaticTopUp) -> str:
        return row.reason or NOTHING

    @column("Price")
    def price(self, row: AutomaticTopUp) -> str:
        return show_money(row.pack.prices[row.currency], row.currency)

    @column("Daily cap")
    def cap(self, row: AutomaticTopUp) -> str:
        return format_money(row.daily_cap_minor, row.currency)

    @column("Card")
    def card(self, row: Any) -> str:
        return "{brand} …{last4}, {exp_month:02}/{exp_year}".format(**row.saved) if row.saved else NOTHING

    @column("Top-ups")
    def top_ups(self, row: AutomaticTopUp) -> SafeString:
        return link_to_list(TopUp, "Top-ups of this account", q=row.owner)


class OpenDebtFilter(SimpleListFilter):
    """A filter for open debts, which are few and have their own index."""

    title = "state"
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("open", "Owed")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Clawback]) -> QuerySet[Clawback]:
        return queryset.filter(settled_at=None) if self.value() == "open" else queryset


@admin.register(Clawback)
class ClawbackAdmin(dialogs.AskPermissions, ReadOnlyTable):
    """The pages of claw-backs, with what is still owed of each; an open debt freezes its account."""

    list_display = ("claw_back", "state", "account", "amount_shown", "owed_shown", "reason", "created_at")
    list_filter = (OpenDebtFilter,)
    list_select_related = ("lot__wallet", "lot__transfer")
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

    def get_queryset(self, request: HttpRequest) -> QuerySet[Clawback]:
        rows: QuerySet[Clawback] = super().get_queryset(request)
        return rows.annotate(email=email_of(OuterRef("lot__wallet__owner")))

    def search(self, rows: QuerySet[Clawback], term: str) -> QuerySet[Clawback]:
        return rows.filter(Q(pk=as_uuid(term)) | Q(lot__wallet__owner__in=accounts_of(term)))

    def get_actions_detail(self, request: HttpRequest, object_id: Any) -> list[Any]:
        """Offer a waiver only for a debt that is still open."""
        row = self.get_object(request, str(object_id))
        return list(super().get_actions_detail(request, object_id)) if row is not None and not row.settled_at else []

    @action(  # type: ignore[untyped-decorator]
        description="Waive",
        permissions=["ask_refund"],
        icon="volunteer_activism",
        dialog=dialogs.dialog(
            "Waive this debt",
            dialogs.WaiverForm,
            "Forgives what is still owed. Above your limit, a second person must approve.",
        ),
    )
    def waive(self, request: HttpRequest, form: dialogs.WaiverForm, object_id: str) -> HttpResponse:
        return dialogs.ask(request, form)

    @column("Claw-back")
    def claw_back(self, row: Clawback) -> SafeString:
        return mono(row.pk)

    @column("State", label={"owed": "danger", "waived": "warning", "void": "warning"})
    def state(self, row: Clawback) -> str:
        return row.settlement or "owed"

    @column("Account")
    def account(self, row: Any) -> SafeString:
        return link(Account, row.lot.wallet.owner, row.email or row.lot.wallet.owner)

    @column("Owed")
    def owed_shown(self, row: Clawback) -> str:
        return NOTHING if row.settled_at else tokens(row.owed)

    @column("Top-up")
    def top_up(self, row: Clawback) -> SafeString | str:
        payment = row.lot.transfer.reference
        return link(TopUp, payment, mono(payment)) if payment else NOTHING
