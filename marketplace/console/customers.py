"""The operator's pages for people, accounts and API keys. Of a key's secret only the prefix is shown."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.contrib.auth.admin import GroupAdmin as DjangoGroupAdmin
from django.contrib.auth.admin import UserAdmin as DjangoUserAdmin
from django.contrib.auth.models import Group
from django.db.models import Model, OuterRef, Q, QuerySet, Subquery
from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from unfold.admin import TabularInline
from unfold.decorators import action
from unfold.forms import AdminPasswordChangeForm, BaseDialogForm, UserChangeForm, UserCreationForm
from unfold.widgets import UnfoldAdminSelectWidget

from billing.models import TopUp, Wallet
from marketplace.accounts import keys, periods, tiers
from marketplace.accounts.models import Account, ApiKey, Person, Tier
from marketplace.audit import trail
from marketplace.console import dialogs
from marketplace.console.tables import (
    NOTHING,
    ReadOnly,
    ReadOnlyTable,
    Table,
    TokensField,
    as_uuid,
    column,
    column_of,
    link,
    link_to_account,
    link_to_list,
    mono,
    operator,
    tokens,
    tokens_of,
)
from marketplace.jobs.models import Job

CAP_HELP = "for all API keys together; leave empty for no cap."


class SuperusersOnly:
    """A page that only superusers may change, since whoever changes people's permissions could give themselves any."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        return request.user.is_superuser

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return request.user.is_superuser


class NewPersonForm(UserCreationForm):  # type: ignore[misc]
    class Meta:
        model = Person
        fields = ("email", "name")
        field_classes: dict[str, type] = {}


class PersonForm(UserChangeForm):  # type: ignore[misc]
    class Meta:
        model = Person
        fields = "__all__"
        field_classes: dict[str, type] = {}


@admin.register(Person)
class PersonAdmin(SuperusersOnly, DjangoUserAdmin, Table):  # type: ignore[misc, type-arg]
    form = PersonForm
    add_form = NewPersonForm
    change_password_form = AdminPasswordChangeForm
    list_display = ("email", "name", "is_staff", "is_active", "last_login", "created_at")
    list_filter = ()
    search_fields = ("email",)
    search_help_text = "Beginning of an e-mail address"
    ordering = ("-pk",)
    readonly_fields = ("last_login", "created_at", "accounts")
    fieldsets = (
        (None, {"fields": ("email", "name", "password", "accounts")}),
        ("Permissions", {"fields": ("is_active", "is_staff", "is_superuser", "groups", "user_permissions")}),
        ("Dates", {"fields": ("last_login", "created_at")}),
    )
    add_fieldsets = ((None, {"fields": ("email", "name", "usable_password", "password1", "password2")}),)

    def search(self, rows: QuerySet[Person], term: str) -> QuerySet[Person]:
        return rows.filter(Q(email__startswith=term.lower()) | Q(email=term))

    def user_change_password(self, request: HttpRequest, id: str, form_url: str = "") -> HttpResponse:
        with trail.acting(operator(request)):
            response: HttpResponse = super().user_change_password(request, id, form_url)
        return response

    accounts = column_of("Accounts", lambda row: link_to_list(Account, "Accounts of this person", q=row.email))


admin.site.unregister(Group)


@admin.register(Group)
class GroupAdmin(SuperusersOnly, DjangoGroupAdmin, Table):  # type: ignore[misc]
    """Sets of permissions for operators."""

    search_help_text = "Beginning of a name"
    ordering = ("name",)

    def search(self, rows: QuerySet[Group], term: str) -> QuerySet[Group]:
        return rows.filter(name__startswith=term)


class KeyColumns:
    prefix_shown = column_of("Prefix", lambda row: mono(f"kiln_{row.prefix}…"))
    state = column_of(
        "State", lambda row: "revoked" if row.revoked_at else "live", {"live": "success", "revoked": "danger"}
    )


class KeyInline(KeyColumns, ReadOnly, TabularInline):  # type: ignore[misc]
    """An account's API keys, read-only; each is revoked on its own page."""

    model = ApiKey
    fields = readonly_fields = ("key", "prefix_shown", "state", "last_used_at", "created_at", "revoked_at")
    ordering = ("-pk",)
    per_page = 20
    hide_title = True
    verbose_name_plural = "API keys"
    key = column_of("Name", lambda row: link(ApiKey, row.pk, row.name))


class AccountForm(forms.ModelForm):  # type: ignore[type-arg]
    daily_cap = TokensField(required=False, min_value=0, help_text=f"Tokens per day {CAP_HELP}")
    monthly_cap = TokensField(required=False, min_value=0, help_text=f"Tokens per month {CAP_HELP}")
    time_zone = forms.ChoiceField(
        choices=lambda: [(zone, zone) for zone in periods.zones()],
        widget=UnfoldAdminSelectWidget,
        help_text="In which days and months begin. The running ones go on, and never end earlier than they would have.",
    )

    def clean_is_active(self) -> bool:
        wanted = bool(self.cleaned_data["is_active"])
        if wanted and self.instance.closed_at:
            raise forms.ValidationError("This account is closed for good.")
        return wanted

    class Meta:
        model = Account
        fields = ("name", "is_active", "tier", "time_zone", "daily_cap", "monthly_cap")


@admin.register(Account)
class AccountAdmin(dialogs.AskPermissions, Table):
    """The pages on which accounts are named, capped and switched off; `customers.create` makes them with a wallet."""

    form = AccountForm
    list_display = ("name", "person", "is_active", "available", "held_tokens", "frozen", "created_at")
    list_select_related = ("owner",)
    search_fields = ("id",)
    search_help_text = "E-mail address, account id or key prefix (kiln_…)"
    fields = (
        "name", "is_active", "tier", "time_zone", "daily_cap", "monthly_cap", "person", "id", "created_at", "wallet",
        "balance_tokens", "held_tokens", "frozen", "history", "top_ups",
    )  # fmt: skip
    readonly_fields = (
        "person", "id", "created_at", "wallet", "balance_tokens", "held_tokens", "frozen", "history", "top_ups",
    )  # fmt: skip
    inlines = (KeyInline,)
    actions_detail = ("grant", "close")

    balance_tokens = tokens_of("balance", "Balance")
    held_tokens = tokens_of("held", "Held")

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def save_model(self, request: HttpRequest, obj: Account, form: AccountForm, change: bool) -> None:
        """Write what the form changed and nothing else; `periods` changes the time zone."""
        changed = set(form.changed_data)
        if "time_zone" in changed:
            periods.change_zone(obj.pk, obj.time_zone)
        obj.save(update_fields=changed - {"time_zone"})
        tiers.forget()

    def get_queryset(self, request: HttpRequest) -> QuerySet[Account]:
        wallet = Wallet.objects.filter(owner=OuterRef("pk"), kind=Wallet.Kind.CUSTOMER)
        rows: QuerySet[Account] = super().get_queryset(request).select_related("owner")
        return rows.annotate(
            balance=Subquery(wallet.values("balance")),
            held=Subquery(wallet.values("held")),
            owes=Subquery(wallet.values("frozen")),
        )

    def search(self, rows: QuerySet[Account], term: str) -> QuerySet[Account]:
        if (account_id := as_uuid(term)) is not None:
            return rows.filter(pk=account_id)
        if term.startswith("kiln_"):
            prefix = term.split("_")[1][:12]
            return rows.filter(pk__in=list(ApiKey.objects.filter(prefix=prefix).values_list("account_id", flat=True)))
        people = Person.objects.filter(Q(email__startswith=term.lower()) | Q(email=term)).values_list("pk", flat=True)
        return rows.filter(owner__in=list(people[:1000]))

    grant = dialogs.asking(
        "Grant Tokens", "redeem", dialogs.GrantForm, "Grant Tokens",
        "Free Tokens. Above your limit, a second person must approve.",
    )  # fmt: skip

    close = dialogs.asking(
        "Close", "person_off", dialogs.ClosingForm, "Close this account for good?",
        f"Keys, jobs, pictures, cards and the person go; the books stay. Tokens left are forfeited: refund them before."
        f" {dialogs.SECOND_PERSON}",
    )  # fmt: skip

    person = column_of("Person", lambda row: link(Person, row.owner_id, row.owner.email))
    available = column_of("Available", lambda row: NOTHING if row.balance is None else tokens(row.balance - row.held))
    wallet = column_of("Wallet", lambda row: link_to_list(Wallet, "Wallet of this account", q=row.pk))

    @column("State", label={"frozen": "danger", "closed": "warning"})
    def frozen(self, account: Any) -> str:
        """Show whether a debt has frozen the account; the wallet's page leads to the debts."""
        return "closed" if account.closed_at else "frozen" if account.owes else NOTHING

    top_ups = column_of("Top-ups", lambda row: link_to_list(TopUp, "Top-ups of this account", q=row.pk))
    history = column_of("Jobs", lambda row: link_to_list(Job, "Jobs of this account", account=row.pk))


@admin.register(Tier)
class TierAdmin(Table):
    """The pages on which tiers are made and changed; every process follows within seconds."""

    list_display = ("name", "a_minute", "a_day", "uploads", "queued_jobs", "streams", "files")
    a_minute = column_of("Requests a minute", "requests_minute")
    a_day = column_of("Requests a day", "requests_day")
    uploads = column_of("MiB sent an hour", "upload_mb_hour")
    search_help_text = "Beginning of a name"

    def search(self, rows: QuerySet[Tier], term: str) -> QuerySet[Tier]:
        return rows.filter(name__startswith=term)

    def save_model(self, request: HttpRequest, obj: Tier, form: forms.ModelForm[Tier], change: bool) -> None:
        super().save_model(request, obj, form, change)
        tiers.forget()


@admin.register(ApiKey)
class ApiKeyAdmin(KeyColumns, ReadOnlyTable):
    list_display = ("name", "prefix_shown", "account_shown", "state", "last_used_at", "created_at")
    list_select_related = ("account__owner",)
    search_fields = ("prefix",)
    search_help_text = "Key prefix (kiln_…), account id or full e-mail address"
    fields = (
        "name", "prefix_shown", "account_shown", "state", "daily", "monthly", "last_used_at", "created_at", "revoked_at"
    )  # fmt: skip
    readonly_fields = ("prefix_shown", "account_shown", "state", "daily", "monthly")
    account_shown = column_of("Account", link_to_account)
    daily = tokens_of("daily_cap", "Daily cap")
    monthly = tokens_of("monthly_cap", "Monthly cap")
    actions = ("revoke_selected",)
    actions_detail = ("revoke",)

    def search(self, rows: QuerySet[ApiKey], term: str) -> QuerySet[ApiKey]:
        if (account_id := as_uuid(term)) is not None:
            return rows.filter(account_id=account_id)
        if "@" in term:
            return rows.filter(account__owner__email=term.lower())
        return rows.filter(prefix=term.removeprefix("kiln_")[:12])

    def has_revoke_permission(self, request: HttpRequest, object_id: object = None) -> bool:
        return bool(request.user.has_perm("accounts.change_apikey"))

    @admin.action(description="Revoke", permissions=["revoke"])
    def revoke_selected(self, request: HttpRequest, queryset: QuerySet[ApiKey]) -> None:
        rows = list(queryset)
        for key in rows:
            self._revoke(request, key)
        messages.success(request, f"Revoked: {len(rows)}.")

    @action(  # type: ignore[untyped-decorator]
        description="Revoke",
        permissions=["revoke"],
        icon="key_off",
        dialog={
            "title": "Revoke this key?",
            "description": "It stops working at once and permanently. Jobs that it ordered continue.",
            "form_submit_text": "Revoke",
        },
    )
    def revoke(self, request: HttpRequest, form: BaseDialogForm, object_id: str) -> HttpResponse:
        key = self.get_object(request, object_id)
        if key is not None:
            self._revoke(request, key)
            messages.success(request, f"{key} is revoked.")
        return HttpResponse(headers={"HX-Redirect": reverse("admin:accounts_apikey_change", args=[object_id])})

    def _revoke(self, request: HttpRequest, key: ApiKey) -> None:
        with trail.acting(operator(request)):
            keys.revoke(key.account_id, key.pk)
        self.log_change(request, key, "Revoked.")
