"""The operator's pages for payouts, for whom Stripe pays, and for the account that pays for granted Tokens."""

from __future__ import annotations

from django.contrib import admin, messages
from django.db.models import OuterRef, Q, QuerySet
from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.utils.html import format_html_join
from django.utils.safestring import SafeString
from unfold.admin import TabularInline
from unfold.decorators import action
from unfold.forms import BaseDialogForm

from billing.amounts import format_money, show_money
from billing.errors import PaymentsRefused, PaymentsUnavailable
from billing.models import Funding, Marketing, Payee, Payout
from billing.payments import payees, payouts, stripe
from marketplace.accounts.models import Account
from marketplace.approvals.models import Request
from marketplace.audit import trail
from marketplace.console import dialogs
from marketplace.console.earnings import OfMakers
from marketplace.console.tables import (
    NOTHING,
    OwnedTable,
    ReadOnly,
    ReadOnlyTable,
    accounts_of,
    as_uuid,
    choices,
    column,
    column_of,
    email_of,
    link,
    link_to_list,
    mono,
    operator,
    tokens,
    tokens_of,
)

PAYOUT_COLOURS = {"ordered": "info", "paid": "success", "failed": "danger", "reversed": "warning"}
PAYEE_COLOURS = {"onboarding": "info", "active": "success", "inactive": "danger"}


@admin.register(Payout)
class PayoutAdmin(OfMakers):
    empty = "What makers have earned leaves as money each month, and when they ask; each payout is here."
    list_display = ("created_at", "status_shown", "maker_shown", "money", "why", "done_at")
    list_filter = (choices("status", {name: (label, Q(status=name)) for name, label in Payout.Status.choices}),)
    list_select_related = ("purse",)
    owner = "purse__maker__owner"
    search_fields = ("id",)
    search_help_text = "Payout or account id, full e-mail address, or Stripe's transfer (tr_…) or account (acct_…)"
    fields = (
        "payout", "status_shown", "maker_shown", "account_shown", "money", "amount_shown", "returned", "why",
        "transfer_id", "payee", "tries", "due", "created_at", "done_at",
    )  # fmt: skip
    readonly_fields = fields
    actions_detail = ("ask_again",)
    amount_shown = tokens_of("amount", "Tokens")

    def search(self, rows: QuerySet[Payout], term: str) -> QuerySet[Payout]:
        if term.startswith("tr_"):
            return rows.filter(transfer_id=term)
        if term.startswith("acct_"):
            return rows.filter(purse__maker__owner__in=Payee.objects.filter(account_id=term).values("owner"))
        return rows.filter(Q(pk=as_uuid(term)) | Q(purse__maker__owner__in=accounts_of(term)))

    def offers(self, row: Payout) -> bool:
        """Offer to ask Stripe again only while it has not answered."""
        return row.status == Payout.Status.ORDERED

    def has_change_payouts_permission(self, request: HttpRequest, object_id: object = None) -> bool:
        return bool(request.user.has_perm("billing.change_payout"))

    @action(  # type: ignore[untyped-decorator]
        description="Ask Stripe again",
        permissions=["change_payouts"],
        icon="refresh",
        dialog={
            "title": "Ask Stripe again now?",
            "description": "Stripe is asked within a minute instead of after the pause. It pays once, however often"
            " it is asked.",
            "form_submit_text": "Ask again",
        },
    )
    def ask_again(self, request: HttpRequest, form: BaseDialogForm, object_id: str) -> HttpResponse:
        with trail.acting(operator(request)):
            done = payouts.hurry(Payout.objects.get(pk=object_id).pk)
            if done:
                trail.record(operator(request), "payout.hurried", f"payout {object_id}", {})
        if done:
            messages.success(request, "Stripe is asked within a minute.")
        else:
            messages.warning(request, "Stripe had already answered.")
        return HttpResponse(headers={"HX-Redirect": reverse("admin:billing_payout_change", args=[object_id])})

    payout = column_of("Payout", lambda row: mono(row.pk))
    status_shown = column_of("Status", "status", PAYOUT_COLOURS)
    money = column_of("Amount", lambda row: show_money(row.money_minor, row.purse.currency))
    why = column_of("Why it waits or failed", lambda row: row.failure or NOTHING)
    transfer_id = column_of("Stripe's transfer", lambda row: row.transfer_id or NOTHING)
    due = column_of("Stripe is asked at", lambda row: row.due_at if row.status == Payout.Status.ORDERED else NOTHING)

    @column("Returned to the maker")
    def returned(self, row: Payout) -> str:
        money = show_money(row.back_minor, row.purse.currency)
        return f"{money}, {tokens(row.back)}" if row.back or row.back_minor else NOTHING

    payee = column_of("Stripe's account", lambda row: link(Payee, row.maker_account, row.account_id))


@admin.register(Payee)
class PayeeAdmin(OwnedTable):
    empty = "Makers who asked to be paid out by Stripe are here, with what Stripe still wants to know of them."
    list_display = ("account", "status_shown", "capability_shown", "missing_shown", "country_shown", "created_at")
    list_filter = (choices("status", {name: (label, Q(status=name)) for name, label in Payee.Status.choices}),)
    ordering = ("-created_at",)
    search_fields = ("account_id",)
    search_help_text = "Account id, full e-mail address, or Stripe's account id (acct_…)"
    fields = (
        "account", "status_shown", "capability_shown", "missing_listed", "asked_at", "account_id", "email",
        "country_shown", "payouts_shown", "created_at",
    )  # fmt: skip
    readonly_fields = fields
    actions_detail = ("ask_again",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Payee]:
        rows: QuerySet[Payee] = super(OwnedTable, self).get_queryset(request)  # which has an `email` of its own
        return rows.annotate(email_shown=email_of(OuterRef("owner")))

    def search(self, rows: QuerySet[Payee], term: str) -> QuerySet[Payee]:
        return rows.filter(account_id=term) if term.startswith("acct_") else super().search(rows, term)

    def offers(self, row: Payee) -> bool:
        """Offer to ask only once there is an account at Stripe."""
        return bool(row.account_id)

    def has_change_payees_permission(self, request: HttpRequest, object_id: object = None) -> bool:
        return bool(request.user.has_perm("billing.change_payee"))

    @action(  # type: ignore[untyped-decorator]
        description="Ask Stripe again",
        permissions=["change_payees"],
        icon="refresh",
        dialog={
            "title": "Ask Stripe again?",
            "description": "Stripe says whether it pays this maker, and what it still wants of them.",
            "form_submit_text": "Ask again",
        },
    )
    def ask_again(self, request: HttpRequest, form: BaseDialogForm, object_id: str) -> HttpResponse:
        payee = Payee.objects.get(pk=object_id)
        try:
            payees.ask(stripe.from_settings(), payee)
        except (PaymentsUnavailable, PaymentsRefused) as error:
            messages.error(request, str(error))
        else:
            trail.record(operator(request), "payee.asked", f"payee {object_id}", {"status": payee.status})
            messages.success(request, f"Stripe was asked: it is {payee.status}.")
        return HttpResponse(headers={"HX-Redirect": reverse("admin:billing_payee_change", args=[object_id])})

    account = column_of("Account", lambda row: link(Account, row.pk, row.email_shown or row.pk))
    status_shown = column_of("Status", "status", PAYEE_COLOURS)
    capability_shown = column_of("Stripe's transfers", lambda row: row.capability or "not asked yet")
    country_shown = column_of("Country", lambda row: row.country.upper())
    missing_shown = column_of("Missing", lambda row: f"{len(row.missing)} things" if row.missing else NOTHING)
    payouts_shown = column_of("Payouts", lambda row: link_to_list(Payout, "Payouts of this maker", q=row.pk))

    @column("Missing, in Stripe's words")
    def missing_listed(self, row: Payee) -> SafeString | str:
        return format_html_join("", '<div class="kiln-break">{}</div>', ((each,) for each in row.missing)) or NOTHING


class FundingInline(ReadOnly, TabularInline):  # type: ignore[misc]
    """What was put into the account and taken out."""

    model = Funding
    fields = readonly_fields = ("funding", "amount_shown", "asked", "created_at")
    ordering = ("-pk",)
    per_page = 20
    hide_title = True
    funding = column_of("Funding", lambda row: f"Funding {row.pk}")
    amount_shown = column_of("Amount", lambda row: show_money(row.amount_minor, row.account_id))

    @column("Approval")
    def asked(self, row: Funding) -> SafeString | str:
        kind, _, request_id = row.idempotency_key.partition(" ")
        known = kind == "request" and as_uuid(request_id)
        return link(Request, request_id, "Who asked and approved") if known else row.idempotency_key


@admin.register(Marketing)
class MarketingAdmin(dialogs.AskPermissions, ReadOnlyTable):
    """The pages of the account that gives earnings from granted Tokens a worth."""

    empty = (
        "Makers whose adapters are used with Tokens that you gave away are paid from an account of yours. Without money"
        " in it, such uses are worth Tokens but no money."
    )
    list_display = ("account", "state", "price", "left", "used", "funded", "weighed_shown")
    fields = list_display
    readonly_fields = fields
    ordering = ("currency",)
    inlines = (FundingInline,)
    actions_list = ("fund",)
    actions_detail = ("fund_more",)

    fund = dialogs.asking("Fund", "add", dialogs.FundingForm, "Fund the marketing account", dialogs.SECOND_PERSON)
    fund_more = dialogs.asking("Fund", "add", dialogs.FundingForm, "Fund the marketing account", dialogs.SECOND_PERSON)

    account = column_of("Currency", lambda row: row.currency.upper())
    state = column_of("State", lambda row: "pays" if row.is_open else "at rest", {"pays": "success"})
    price = column_of("For 1,000 Tokens", lambda row: show_money(row.price_minor, row.currency))
    left = column_of("Left", lambda row: format_money(row.left_minor, row.currency))
    used = column_of("Paid to makers", lambda row: format_money(row.used_minor, row.currency))
    funded = column_of("Put in", lambda row: format_money(row.funded_minor, row.currency))
    weighed_shown = tokens_of("weighed", "Granted Tokens paid for")
