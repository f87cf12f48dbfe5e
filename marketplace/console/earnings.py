"""The operator's pages for makers and what they earned: by maker in sum, and use by use."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.contrib import admin
from django.contrib.admin import SimpleListFilter
from django.db.models import Exists, F, OuterRef, Q, QuerySet, Subquery
from django.db.models.expressions import RawSQL
from django.http import HttpRequest
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from billing import clock
from billing.amounts import format_money, format_tokens, show_money
from billing.models import Earning, Payee, Payout, Transfer
from billing.tokens import earned, maker_years
from billing.tokens.earnings import Standing
from billing.tokens.maker_years import Totals
from lora.models import Adapter, Maker
from marketplace.accounts.models import Account
from marketplace.console.tables import (
    FAR,
    NOTHING,
    OwnedTable,
    accounts_of,
    as_uuid,
    choices,
    column,
    column_of,
    link,
    link_to_list,
    mono,
    tokens_of,
)
from marketplace.jobs.models import Job

MONTHS = 24
"""Offered by the filter."""

# The adapters, with versions, that this maker has in the job's quote.
_ADAPTERS = """(
    SELECT string_agg(concat(coalesce(maker.handle || '/' || adapter.slug, used ->> 'adapter'), ' version ',
                             used ->> 'version'), ', ')
    FROM jobs_job AS job, jsonb_array_elements(job.quote -> 'adapters') AS used
    LEFT JOIN lora_adapter AS adapter ON adapter.id = (used ->> 'adapter')::uuid
    LEFT JOIN lora_maker AS maker ON maker.account = adapter.owner_id
    WHERE job.id = billing_earning.reference
      AND used ->> 'maker' = (SELECT owner::text FROM billing_wallet WHERE id = billing_earning.maker_id)
)"""


@admin.register(Maker)
class MakerAdmin(OwnedTable):
    empty = "Whoever sends or trains an adapter is here, with what it earned them."
    list_display = ("handle", "account_shown", "created_at")
    owner = "account"
    ordering = ("-created_at",)
    search_fields = ("handle",)
    search_help_text = "Handle, account id or full e-mail address"
    fields = ("handle", "account_shown", "created_at", "purses", "adapters", "earnings", "payouts", "payee")
    readonly_fields = fields

    def search(self, rows: QuerySet[Maker], term: str) -> QuerySet[Maker]:
        return rows.filter(Q(handle=term.lower()) | Q(account__in=accounts_of(term)))

    account_shown = column_of("Account", lambda row: link(Account, row.pk, row.email or row.pk))
    adapters = column_of("Adapters", lambda row: link_to_list(Adapter, "Adapters of this maker", q=row.pk))
    earnings = column_of("Earnings", lambda row: link_to_list(Earning, "Earnings of this maker", q=row.pk))
    payouts = column_of("Payouts", lambda row: link_to_list(Payout, "Payouts of this maker", q=row.pk))

    @column("Paid by Stripe")
    def payee(self, row: Maker) -> SafeString | str:
        found = Payee.objects.filter(pk=row.pk).first()
        return link(Payee, found.pk, found.get_status_display()) if found else "not asked for"

    @column("In sum")
    def purses(self, row: Maker) -> SafeString | str:
        """Show what was earned and what became of it, a column for each currency."""
        ever, now = maker_years.ever(row.pk), {each.currency: each for each in earned.purses(row.pk)}
        sums = [_sums(each, now.get(each.currency, Standing(each.currency, 0, 0, 0, 0, 0))) for each in ever]
        head = format_html_join("", "<th>{}</th>", ((each.currency.upper() or "without worth",) for each in ever))
        lines = format_html_join("", "<tr><th>{}</th>{}</tr>", (
            (title, format_html_join("", "<td>{}</td>", ((each[title],) for each in sums))) for title in sums[0]
        )) if sums else ""  # fmt: skip
        return format_html('<table class="kiln-table"><tr><th></th>{}</tr>{}</table>', head, lines) if sums else NOTHING


def _sums(ever: Totals, now: Standing) -> dict[str, str]:
    """Return, by title, the Tokens of a purse and what they are worth."""

    def both(milli: int, minor: int) -> str:
        return f"{format_tokens(milli)}, {show_money(minor, ever.currency)}" if ever.currency else format_tokens(milli)

    return {
        "Earned": format_tokens(ever.earned),
        "Taken back or away": format_tokens(ever.taken_back),
        "Exchanged": both(ever.exchanged, ever.exchanged_minor),
        "Paid out": both(ever.paid_out, ever.paid_out_minor),
        "Left": both(max(0, now.amount), max(0, now.money_minor)),
        "Matured": both(now.ready, now.ready_minor),
        "Debt": both(now.advanced, max(0, -now.money_minor)),
    }


class OfMakers(OwnedTable):
    """Read-only pages of what makers have: each row has its maker's `handle` and account, too."""

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        handle = Subquery(Maker.objects.filter(pk=OuterRef(self.owner)).values("handle"))
        rows: QuerySet[Any] = super().get_queryset(request).annotate(handle=handle, maker_account=F(self.owner))
        return rows

    maker_shown = column_of("Maker", lambda row: link(Maker, row.maker_account, row.handle or row.maker_account))
    account_shown = column_of("Account", lambda row: link(Account, row.maker_account, row.email or row.maker_account))


class Months(SimpleListFilter):
    """The last months, in UTC; the table's index by time finds their rows."""

    title = parameter_name = "month"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        now = clock.now()
        numbers = [now.year * 12 + now.month - 1 - back for back in range(MONTHS)]
        return [(name, name) for name in (f"{number // 12}-{number % 12 + 1:02}" for number in numbers)]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        if self.value() not in dict(self.lookup_choices):
            return queryset
        first = datetime.fromisoformat(f"{self.value()}-01T00:00:00+00:00")
        following = (first + timedelta(days=32)).replace(day=1)
        return queryset.filter(created_at__gte=first, created_at__lt=following)


@admin.register(Earning)
class EarningAdmin(OfMakers):
    empty = "Each picture that somebody else drew with a published adapter is here, with what its maker got of it."
    list_display = ("earning", "adapters", "amount_shown", "worth", "gone", "matures", "created_at")
    list_filter = (Months, choices("state", {"away": ("Away", Q(owed__gt=0)), "back": ("Taken back", Q(back__gt=0))}))
    owner = "maker__owner"
    search_fields = ("reference",)
    search_help_text = (
        "Maker's account id, full e-mail address or handle, job id, or maker/slug of an adapter: of its maker's newest"
        f" {FAR:,} earnings in the month"
    )
    fields = (
        "maker_shown", "account_shown", "adapters", "amount_shown", "worth", "back_shown", "owed_shown", "matures",
        "job", "transfer_shown", "created_at",
    )  # fmt: skip
    readonly_fields = fields
    amount_shown = column_of("Tokens", lambda row: format_tokens(row.amount))
    back_shown = tokens_of("back", "Taken back")
    owed_shown = tokens_of("owed", "Away")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Earning]:
        rows: QuerySet[Earning] = super().get_queryset(request).annotate(adapters_used=RawSQL(_ADAPTERS, ()))
        return rows

    def search(self, rows: QuerySet[Earning], term: str) -> QuerySet[Earning]:
        handle, slash, slug = term.lower().partition("/")
        if slash:
            return self._of_adapter(rows, handle, slug)
        if (key := as_uuid(term)) is not None and Job.objects.filter(pk=key).exists():
            return rows.filter(reference=key)
        made = Maker.objects.filter(handle=handle).values_list("account", flat=True)
        return rows.filter(maker__owner__in=[*accounts_of(term), *made])

    def _of_adapter(self, rows: QuerySet[Earning], handle: str, slug: str) -> QuerySet[Earning]:
        adapter = Adapter.objects.filter(owner__handle=handle, slug=slug).first()
        if adapter is None:
            return rows.none()
        newest = rows.filter(maker__owner=adapter.owner_id).order_by("-pk").values("pk")[:FAR]
        drawn = Job.objects.filter(pk=OuterRef("reference"), quote__adapters__contains=[{"adapter": str(adapter.pk)}])
        return rows.filter(Exists(drawn), pk__in=newest)

    earning = column_of("Earning", lambda row: f"Earning {row.pk}")
    adapters = column_of(
        "Adapter", lambda row: format_html('<div class="kiln-break">{}</div>', row.adapters_used or NOTHING)
    )
    job = column_of("Job", lambda row: link(Job, row.reference, mono(row.reference)))
    transfer_shown = column_of("Capture", lambda row: link(Transfer, row.transfer_id, f"Transfer {row.transfer_id}"))

    @column("Worth")
    def worth(self, row: Earning) -> str:
        if not row.weighed:
            return "not decided yet"
        return show_money(row.money_minor, row.currency) if row.currency else "nothing"

    @column("Gone")
    def gone(self, row: Earning) -> str:
        if not (gone := row.back + row.owed):
            return NOTHING
        minor = row.back_minor + row.owed_minor
        return f"{format_tokens(gone)}, {format_money(minor, row.currency)}" if row.currency else format_tokens(gone)

    @column("Matures")
    def matures(self, row: Earning) -> str:
        return f"{row.created_at + timedelta(days=settings.EARNINGS_DAYS):%Y-%m-%d}"
