"""The operator's pages for the audit, read-only for everybody."""

from __future__ import annotations

import json
from typing import Any

from django.contrib import admin
from django.contrib.admin import SimpleListFilter
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.html import format_html
from django.utils.safestring import SafeString

from marketplace.audit.models import Record
from marketplace.console.tables import ReadOnlyTable, column, mono


class ActFilter(SimpleListFilter):
    """A filter by act; the names are those that the audit's triggers and the log-ins write."""

    title = "act"
    parameter_name = "act"
    acts = (
        "grant", "refund", "request.pending", "request.executed", "request.rejected", "price_list.published",
        "pack.published", "pack.switched", "wallet.frozen", "debt.waived", "key.made", "key.revoked",
        "key.capped", "account.changed", "login", "login.failed", "person.changed", "right.given",
    )  # fmt: skip

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(act, act) for act in self.acts]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Record]) -> QuerySet[Record]:
        return queryset.filter(act=self.value()) if self.value() else queryset


@admin.register(Record)
class RecordAdmin(ReadOnlyTable):
    list_display = ("record", "at", "actor", "act_shown", "object", "summary")
    list_filter = (ActFilter,)
    search_fields = ("object",)
    search_help_text = "Full name of the object (transfer 12, key …, person 3) or the actor (person 3 name@example.com)"
    fields = ("record", "at", "actor", "act_shown", "object", "details_shown", "previous_shown", "hash_shown")
    readonly_fields = fields

    def search(self, rows: QuerySet[Record], term: str) -> QuerySet[Record]:
        found = rows.filter(object=term)
        return found if found.exists() else rows.filter(actor=term)

    @column("Record")
    def record(self, record: Record) -> str:
        return f"Record {record.seq}"

    @column("Act", label={"login.failed": "danger", "grant": "success", "refund": "warning"})
    def act_shown(self, record: Record) -> str:
        return record.act

    @column("Details")
    def summary(self, record: Record) -> SafeString:
        text = ", ".join(f"{name} {value}" for name, value in record.details.items() if value not in (None, ""))
        return format_html('<span class="kiln-break" title="{}">{}</span>', text, text[:120])

    @column("Details")
    def details_shown(self, record: Record) -> SafeString:
        return format_html('<pre class="kiln-mono">{}</pre>', json.dumps(record.details, indent=2, ensure_ascii=False))

    @column("Hash of the previous record")
    def previous_shown(self, record: Record) -> SafeString:
        return mono(bytes(record.previous).hex())

    @column("Hash")
    def hash_shown(self, record: Record) -> SafeString:
        return mono(bytes(record.hash).hex())
