"""The dialogs in which operators ask for an act, on pages of accounts, jobs, top-ups, packs, tiers and price lists."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from decimal import Decimal
from typing import Any, ClassVar, cast

from django import forms
from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from unfold.decorators import action
from unfold.forms import BaseDialogForm
from unfold.widgets import (
    UnfoldAdminDecimalFieldWidget,
    UnfoldAdminSelectWidget,
    UnfoldAdminTextareaWidget,
    UnfoldAdminTextInputWidget,
)

from billing.amounts import format_money, format_tokens
from billing.currencies import CURRENCIES, decimals
from billing.errors import BillingError
from billing.models import Clawback, Hold, Marketing, Pack, TopUp
from billing.payments import refunds
from billing.prices import price_lists
from lora import tiers
from lora.models import Tier
from marketplace.accounts.columns import ProseField
from marketplace.accounts.models import Person
from marketplace.approvals import acts, requests
from marketplace.approvals.act import Act, Impossible
from marketplace.approvals.models import Request
from marketplace.approvals.requests import ApprovalError
from marketplace.audit import trail
from marketplace.console.tables import PlainDecimalField, TokensField, operator
from marketplace.exact_json import Decoder
from marketplace.identifiers import uuid7

LEAST = Decimal("0.001")
SECOND_PERSON = "A second person must approve."
Status = Request.Status


class AskPermissions:
    """The permission checks of pages with these dialogs, under the names that their actions use.

    If an action named a permission in full, Unfold would look it up in the database before its table exists.
    """

    def has_ask_grant_permission(self, request: HttpRequest, object_id: object = None) -> bool:
        return bool(request.user.has_perm(acts.Grant.permission))

    def has_ask_refund_permission(self, request: HttpRequest, object_id: object = None) -> bool:
        return bool(request.user.has_perm(acts.JobRefund.permission))

    def has_ask_prices_permission(self, request: HttpRequest, object_id: object = None) -> bool:
        return bool(request.user.has_perm(acts.PriceListChange.permission))

    def has_ask_funding_permission(self, request: HttpRequest, object_id: object = None) -> bool:
        return bool(request.user.has_perm(acts.MarketingFunding.permission))

    def has_ask_closing_permission(self, request: HttpRequest, object_id: object = None) -> bool:
        return bool(request.user.has_perm(acts.AccountClosing.permission))


class JsonField(forms.JSONField):
    def __init__(self, **terms: Any) -> None:
        super().__init__(widget=UnfoldAdminTextareaWidget(attrs={"rows": 5}), decoder=Decoder, **terms)


class AskForm(BaseDialogForm):  # type: ignore[misc]
    """An act's fields and the reason. A form sent twice asks once, since `request_id` is made with the form."""

    permission: ClassVar[str]
    """Who may ask, as in AskPermissions."""
    blamed = "amount"
    request_id = forms.UUIDField(widget=forms.HiddenInput, initial=uuid7)
    reason = ProseField(
        max_length=500,
        widget=UnfoldAdminTextareaWidget(attrs={"rows": 3}),
        help_text="For the audit and the person who approves; customers do not see it.",
    )

    def __init__(self, request: HttpRequest, object_id: Any = None, *args: Any, **more: Any) -> None:
        super().__init__(request, object_id, *args, **more)
        self.order_fields([name for name in self.fields if name != "reason"])
        self.prepare()

    def prepare(self) -> None:
        """Fill in the fields from the row that the dialog is about."""

    def make(self, given: dict[str, Any]) -> Act:
        raise NotImplementedError

    def clean(self) -> dict[str, Any]:
        given = super().clean() or self.cleaned_data
        if not self.errors:
            self.act = self.make(given)
            try:
                requests.check(self.act, given["request_id"])
            except Impossible as error:
                self.add_error(self.blamed, str(error))
        return cast(dict[str, Any], given)


class GrantForm(AskForm):
    permission = "ask_grant"
    amount = TokensField(label="Tokens", min_value=LEAST)

    def make(self, given: dict[str, Any]) -> Act:
        return acts.Grant(str(self.object_id), given["amount"])


class JobRefundForm(AskForm):
    permission = "ask_refund"
    amount = TokensField(label="Tokens", min_value=LEAST)

    def prepare(self) -> None:
        hold = Hold.objects.filter(reference=self.object_id).first()
        left = hold.captured - hold.refunded if hold else 0
        self.fields["amount"].initial = left
        self.fields["amount"].help_text = f"Up to {format_tokens(left)} Tokens. They go back into the lots that paid."

    def make(self, given: dict[str, Any]) -> Act:
        return acts.JobRefund(str(self.object_id), given["amount"])


class PaymentRefundForm(AskForm):
    permission = "ask_refund"
    amount = PlainDecimalField(min_value=0, max_digits=12, decimal_places=3, widget=UnfoldAdminDecimalFieldWidget)

    def prepare(self) -> None:
        self.top_up = TopUp.objects.get(pk=self.object_id)
        most = format_money(refunds.refundable(self.top_up), self.top_up.currency)
        self.fields["amount"].initial = most
        self.fields["amount"].label = self.top_up.currency.upper()
        self.fields["amount"].help_text = f"Up to {most}: the price of the Tokens that are neither spent nor held."

    def clean_amount(self) -> int:
        return _minor(self.cleaned_data["amount"], self.top_up.currency)

    def make(self, given: dict[str, Any]) -> Act:
        return acts.PaymentRefund(str(self.object_id), given["amount"], self.top_up.currency)


class WaiverForm(AskForm):
    permission = "ask_refund"
    blamed = "reason"

    def make(self, given: dict[str, Any]) -> Act:
        return acts.DebtWaiver(str(self.object_id), Clawback.objects.get(pk=self.object_id).owed)


class ClosingForm(AskForm):
    permission = "ask_closing"
    blamed = "reason"

    def make(self, given: dict[str, Any]) -> Act:
        return acts.AccountClosing(str(self.object_id))


class FundingForm(AskForm):
    """Money put into the marketing account, or taken out; on an account's page it is in its currency."""

    permission = "ask_funding"
    currency = forms.ChoiceField(
        choices=[(name, name.upper()) for name in sorted(CURRENCIES)], widget=UnfoldAdminSelectWidget, initial="eur"
    )
    amount = PlainDecimalField(
        max_digits=12, decimal_places=3, widget=UnfoldAdminDecimalFieldWidget,
        help_text="What is put in; less than 0 takes out what was not used.",
    )  # fmt: skip
    price = PlainDecimalField(
        min_value=0, max_digits=12, decimal_places=3, widget=UnfoldAdminDecimalFieldWidget,
        help_text="What makers get for 1,000 granted Tokens from now on.",
    )  # fmt: skip

    def prepare(self) -> None:
        if account := Marketing.objects.filter(pk=self.object_id).first():
            self.fields["currency"].initial, self.fields["currency"].disabled = account.currency, True
            self.fields["price"].initial = format_money(account.price_minor, account.currency)

    def clean(self) -> dict[str, Any]:
        given = self.cleaned_data
        for name in ("amount", "price"):
            if name in given and "currency" in given:
                try:
                    given[name] = _minor(given[name], given["currency"])
                except forms.ValidationError as error:
                    self.add_error(name, error)
        return super().clean()

    def make(self, given: dict[str, Any]) -> Act:
        return acts.MarketingFunding(given["currency"], given["price"], given["amount"])


class PriceListForm(AskForm):
    permission = "ask_prices"
    blamed = "base_cost"
    base_cost = TokensField(min_value=LEAST, help_text="Tokens for one megapixel, 50 steps and 100 characters")
    prompt_floor = forms.IntegerField(
        min_value=1, max_value=100_000, widget=UnfoldAdminDecimalFieldWidget,
        help_text="In characters: shorter prompts are priced as if they were this long.",
    )  # fmt: skip
    service_classes = JsonField(help_text="In thousandths: 1500 is one and a half times the price.")
    operations = JsonField(help_text="In thousandths")
    skipped_step = forms.IntegerField(
        min_value=0, max_value=1000, widget=UnfoldAdminDecimalFieldWidget,
        help_text="Price of a step that a cache saved, in thousandths of a step that was run",
    )  # fmt: skip

    def prepare(self) -> None:
        for name, value in vars(price_lists.current()).items():
            if name in self.fields:
                self.fields[name].initial = value

    def make(self, given: dict[str, Any]) -> Act:
        names = ("base_cost", "prompt_floor", "service_classes", "operations", "skipped_step")
        return acts.PriceListChange(**{name: given[name] for name in names})


class PackForm(AskForm):
    """A new pack, or a new version of the pack on whose page the dialog is."""

    permission = "ask_prices"
    blamed = "prices"
    name = forms.SlugField(max_length=40, widget=UnfoldAdminTextInputWidget)
    tokens = TokensField(label="Tokens", min_value=LEAST)
    bonus = TokensField(min_value=0, initial=0, help_text="Free Tokens, in addition to the paid ones")
    prices = JsonField(help_text='In the currency\'s smallest unit: {"eur": 500, "usd": 500}')

    def prepare(self) -> None:
        if self.object_id is not None:
            pack = Pack.objects.get(pk=self.object_id)
            for name in ("name", "tokens", "bonus", "prices"):
                self.fields[name].initial = getattr(pack, name)
            self.fields["name"].disabled = True

    def make(self, given: dict[str, Any]) -> Act:
        return acts.PackChange(given["name"], given["tokens"], given["bonus"], given["prices"])


class TierForm(AskForm):
    """A new tier of trainings, or a new version of the tier on whose page the dialog is."""

    permission = "ask_prices"
    blamed = "base_cost"
    name = forms.SlugField(max_length=40, widget=UnfoldAdminTextInputWidget)
    description = forms.CharField(max_length=500, widget=UnfoldAdminTextInputWidget)
    base_cost = TokensField(min_value=LEAST, help_text="Tokens for 1,000 steps at 1024 x 1024")
    terms = JsonField(
        help_text="floor in pixels, surcharge in thousandths of the price of a picture; service_class is the turn"
    )

    def prepare(self) -> None:
        found = Tier.objects.filter(pk=self.object_id).first() or tiers.offered()[0]
        terms = asdict(found.terms)
        self.fields["base_cost"].initial = terms.pop("base_cost")
        self.fields["terms"].initial = terms
        if self.object_id is not None:
            self.fields["name"].initial, self.fields["description"].initial = found.name, found.description
            self.fields["name"].disabled = True

    def make(self, given: dict[str, Any]) -> Act:
        terms = {"base_cost": given["base_cost"], **given["terms"]}
        return acts.TierChange(given["name"], given["description"], terms)


class RejectForm(BaseDialogForm):  # type: ignore[misc]
    note = ProseField(
        label="Reason",
        max_length=500,
        widget=UnfoldAdminTextareaWidget(attrs={"rows": 3}),
        help_text="For the person who asked",
    )


def asking(label: str, icon: str, form: type[AskForm], title: str, text: str) -> Any:
    """Make an action with this label and icon, whose dialog has this form, title and explanation."""

    @action(  # type: ignore[untyped-decorator]
        description=label,
        permissions=[form.permission],
        icon=icon,
        dialog={"title": title, "description": text, "form_class": form, "form_submit_text": "Continue"},
    )
    def ask_for(self: Any, request: HttpRequest, filled: AskForm, object_id: str = "") -> HttpResponse:
        return ask(request, filled)

    return ask_for


def stopping(noun: str, kept: str, stop: Callable[[Any], None]) -> Any:
    """Make the action that takes a version of what is sold, a `noun`, off sale; `kept` says who keeps it."""

    @action(  # type: ignore[untyped-decorator]
        description="Take off sale",
        permissions=["ask_prices"],
        icon="block",
        dialog={
            "title": f"Take this {noun} off sale?",
            "description": f"{kept} Selling it again needs a second person.",
            "form_submit_text": "Take off sale",
        },
    )
    def stop_sale(self: Any, request: HttpRequest, form: BaseDialogForm, object_id: str) -> HttpResponse:
        with trail.acting(operator(request)):
            stop(self.model.objects.get(pk=object_id))
        return HttpResponse(headers={"HX-Refresh": "true"})

    return stop_sale


def ask(request: HttpRequest, form: AskForm) -> HttpResponse:
    """Ask for the form's act, then lead to the approval request's page, which shows the outcome."""
    person = cast(Person, request.user)
    try:
        asked = requests.ask(person, form.act, form.cleaned_data["reason"], form.cleaned_data["request_id"])
    except (ApprovalError, BillingError) as error:
        messages.error(request, str(error))
        return HttpResponse(headers={"HX-Refresh": "true"})
    tell(request, asked)
    if not request.user.has_perm("approvals.view_request"):
        return HttpResponse(headers={"HX-Refresh": "true"})
    return HttpResponse(headers={"HX-Redirect": address(asked.pk)})


def tell(request: HttpRequest, asked: Request) -> None:
    """Show where the approval request stands, as a message on the next page."""
    level, text = {
        Status.EXECUTED: (messages.SUCCESS, f"Done: {asked.outcome}."),
        Status.APPROVED: (messages.WARNING, f"Started: {asked.outcome}. It is retried every minute."),
        Status.FAILED: (messages.ERROR, f"It failed, and the Tokens were returned: {asked.outcome}"),
        Status.PENDING: (messages.INFO, "Nothing has happened yet: a second person must approve this."),
        Status.REJECTED: (messages.WARNING, f"Rejected: {asked.note}"),
        Status.EXPIRED: (messages.WARNING, "Nobody decided in time. Please ask again."),
    }[Status(asked.status)]
    messages.add_message(request, level, text)


def address(request_id: object) -> str:
    return reverse("admin:approvals_request_change", args=[request_id])


def _minor(amount: Decimal, currency: str) -> int:
    """Return an amount in the currency's smallest unit. Raises ValidationError if it has a part of one."""
    minor = amount.scaleb(decimals(currency))
    if minor != int(minor):
        raise forms.ValidationError(f"{currency.upper()} has no unit that small.")
    return int(minor)
