"""The parts that the operator's pages share: lists that stay fast with millions of rows, Token amounts and links.

A list is ordered by its primary key, newest first, filtered by indexed columns only, and counted up to `FAR` rows.
Pages of a single model belong in other modules.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from decimal import Decimal
from operator import attrgetter
from typing import Any, ClassVar, TypeVar, cast
from uuid import UUID

from django import forms
from django.contrib.admin import ShowFacets, SimpleListFilter
from django.core.paginator import Paginator
from django.db.models import Model, OuterRef, Q, QuerySet, Subquery
from django.http import FileResponse, Http404, HttpRequest, HttpResponse
from django.urls import reverse
from django.utils.functional import cached_property
from django.utils.html import format_html
from django.utils.safestring import SafeString
from unfold.admin import ModelAdmin
from unfold.decorators import display
from unfold.views import ChangeList
from unfold.widgets import UnfoldAdminDecimalFieldWidget

from billing.amounts import format_tokens, show_tokens
from marketplace.accounts.models import Account, Person
from marketplace.adapters import storage
from marketplace.audit import trail

Column = TypeVar("Column", bound=Callable[..., object])

FAR = 10_000
NOTHING = "–"


class BoundedPaginator(Paginator):  # type: ignore[type-arg]
    """A paginator that counts at most `FAR` rows, so that neither the count nor the last page reads the whole table."""

    template_name = "console/pagination.html"

    @cached_property
    def _seen(self) -> int:
        rows = cast(QuerySet[Any], self.object_list)
        return rows.order_by().values("pk")[: FAR + 1].count()

    @cached_property
    def count(self) -> int:
        return min(self._seen, FAR)

    @property
    def more(self) -> bool:
        """Return whether there are rows beyond the last page."""
        return self._seen > FAR


class BoundedChangeList(ChangeList):  # type: ignore[misc]
    """A list that says how many rows it found, and does not offer to show the whole table."""

    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        self.full_result_count = self.result_count


class Table(ModelAdmin):  # type: ignore[misc]
    """A model's pages. Subclasses decide in `search` what a search term may be; each must be an indexed lookup."""

    paginator = BoundedPaginator
    show_full_result_count = False
    show_facets = ShowFacets.NEVER
    list_per_page = 50
    list_max_show_all = 0
    list_disable_select_all = True
    list_fullwidth = True
    ordering: ClassVar[Sequence[str]] = ("-pk",)
    sortable_by = ()
    empty_value_display = NOTHING
    empty = ""
    """What will be in the list, for when there is nothing yet."""

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return BoundedChangeList

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        term = search_term.strip()
        return (self.search(queryset, term) if term else queryset), False

    def search(self, rows: QuerySet[Any], term: str) -> QuerySet[Any]:
        return rows.none()

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def changeform_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        with trail.acting(operator(request)) if request.method == "POST" else nullcontext():
            response: HttpResponse = super().changeform_view(request, *args, **kwargs)
        return response


class ReadOnly:
    """Pages on which nobody can add, change or delete anything."""

    def has_add_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False


class ReadOnlyTable(ReadOnly, Table):
    """A model's pages, read-only."""


class OwnedTable(ReadOnlyTable):
    """Read-only pages of what accounts own: each row has its owner's address as `email`."""

    owner = "owner"
    """The lookup from a row to its account's id."""

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        rows: QuerySet[Any] = super().get_queryset(request).annotate(email=email_of(OuterRef(self.owner)))
        return rows

    def search(self, rows: QuerySet[Any], term: str) -> QuerySet[Any]:
        return rows.filter(**{f"{self.owner}__in": accounts_of(term)})

    def offers(self, row: Any) -> bool:
        """Return whether the page of a row offers its acts."""
        return True

    def get_actions_detail(self, request: HttpRequest, object_id: Any) -> list[Any]:
        row = self.get_object(request, str(object_id))
        return list(super().get_actions_detail(request, object_id)) if row is not None and self.offers(row) else []


class PlainDecimalField(forms.DecimalField):
    """A field of plain decimals: no exponents, and no digits but 0 to 9."""

    def to_python(self, value: Any) -> Any:
        if value not in self.empty_values and not re.fullmatch(r"\s*-?[0-9]+(\.[0-9]+)?\s*", str(value)):
            raise forms.ValidationError(self.error_messages["invalid"], code="invalid")
        return super().to_python(value)


class TokensField(PlainDecimalField):
    """A field that shows Tokens and stores milli-Tokens."""

    def __init__(self, **terms: Any) -> None:
        super().__init__(max_digits=15, decimal_places=3, widget=UnfoldAdminDecimalFieldWidget, **terms)

    def prepare_value(self, value: Any) -> Any:
        return format_tokens(value) if isinstance(value, int) else value

    def clean(self, value: Any) -> int | None:
        found = super().clean(value)
        return None if found is None else int(found * 1000)

    def has_changed(self, initial: Any, data: Any) -> bool:
        return super().has_changed(initial if initial is None else Decimal(initial) / 1000, data)


def tokens(milli: int | None) -> str:
    """Format an amount of milli-Tokens, which is never negative, for people."""
    return NOTHING if milli is None else show_tokens(milli)


def column(title: str, label: Mapping[Any, str] | None = None) -> Callable[[Column], Column]:
    """Make a method a column or field with this title; `label` gives each of its values a colour."""
    decorator: Callable[[Column], Column] = display(description=title, label=label)
    return decorator


def choices(name: str, offered: Mapping[str, tuple[str, Q]]) -> type[SimpleListFilter]:
    """Make a filter called `name` that offers these values, each with its title and the condition of its rows."""

    class Choices(SimpleListFilter):
        title = parameter_name = name

        def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
            return [(value, title) for value, (title, _) in offered.items()]

        def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
            chosen = offered.get(self.value() or "")
            return queryset.filter(chosen[1]) if chosen else queryset

    return Choices


def column_of(
    title: str, value: str | Callable[[Any], object], label: Mapping[Any, str] | None = None
) -> Callable[[Any, Any], object]:
    """Make a column that shows an attribute of the row, or what `value` makes of the row."""
    read = attrgetter(value) if isinstance(value, str) else value

    @column(title, label)
    def shown(self: Any, row: Any) -> object:
        return read(row)

    return shown


def tokens_of(name: str, title: str) -> Callable[[Any, Any], object]:
    """Make a column that shows the row's attribute `name`, in milli-Tokens."""
    return column_of(title, lambda row: tokens(getattr(row, name)))


def link(model: type[Model], key: object, text: object) -> SafeString:
    """Link to the page of one row."""
    meta = model._meta
    return format_html(
        '<a class="kiln-link" href="{}">{}</a>',
        reverse(f"admin:{meta.app_label}_{meta.model_name}_change", args=[key]),
        text,
    )


def link_to_account(row: Any) -> SafeString:
    """Link to the account of a row that refers to it."""
    return link(Account, row.account_id, row.account.owner.email)


def link_to_list(model: type[Model], text: object, **narrowed: object) -> SafeString:
    """Link to a model's list, filtered by lookups."""
    meta = model._meta
    address = reverse(f"admin:{meta.app_label}_{meta.model_name}_changelist", query=narrowed)
    return format_html('<a class="kiln-link" href="{}">{}</a>', address, text)


def mono(text: object) -> SafeString:
    return format_html('<span class="kiln-mono">{}</span>', text)


def picture(path: str) -> FileResponse:
    """Show samples that are stored with adapters. Raises Http404 if they were removed."""
    try:
        return FileResponse(storage.open_file(path), content_type="image/png")
    except FileNotFoundError as error:
        raise Http404 from error


def operator(request: HttpRequest) -> str:
    """Return the logged-in person's name in the audit."""
    return trail.name_of(cast(Person, request.user))


def email_of(account: OuterRef) -> Subquery:
    """Look up the e-mail address of an account's owner."""
    return Subquery(Account.objects.filter(pk=account).values("owner__email")[:1])


def as_uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None


def accounts_of(term: str) -> list[UUID]:
    """Return the ids of the accounts that match an account id or an owner's full e-mail address."""
    if (account_id := as_uuid(term)) is not None:
        return [account_id]
    return list(Account.objects.filter(owner__email=term.lower()).values_list("id", flat=True)[:100])
