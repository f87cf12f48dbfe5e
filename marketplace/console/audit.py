"""The operator's pages for the audit, read-only for everybody."""

from __future__ import annotations

import json

from django.contrib import admin
from django.db.models import Q, QuerySet
from django.utils.html import format_html
from django.utils.safestring import SafeString

from marketplace.audit.models import Record
from marketplace.console.tables import ReadOnlyTable, choices, column, column_of, mono

# The names that the audit's triggers and the log-ins write.
ACTS = (
    "grant", "refund", "request.pending", "request.executed", "request.rejected", "price_list.published",
    "pack.published", "pack.switched", "wallet.frozen", "debt.waived", "key.made", "key.revoked", "key.capped",
    "adapter.shared", "adapter.unshared", "adapter.deleted", "version.deleted", "publication.approved",
    "publication.refused", "publication.withdrawn", "report.closed", "training_tier.published",
    "training_tier.switched", "marketing.funded", "payout.hurried", "payee.asked", "account.changed", "login",
    "login.failed", "person.changed", "right.given",
)  # fmt: skip


@admin.register(Record)
class RecordAdmin(ReadOnlyTable):
    list_display = ("record", "at", "actor", "act_shown", "object", "summary")
    list_filter = (choices("act", {act: (act, Q(act=act)) for act in ACTS}),)
    search_fields = ("object",)
    search_help_text = "Full name of the object (transfer 12, key …, person 3) or the actor (person 3 name@example.com)"
    fields = ("record", "at", "actor", "act_shown", "object", "details_shown", "previous_shown", "hash_shown")
    readonly_fields = fields

    def search(self, rows: QuerySet[Record], term: str) -> QuerySet[Record]:
        found = rows.filter(object=term)
        return found if found.exists() else rows.filter(actor=term)

    record = column_of("Record", lambda row: f"Record {row.seq}")
    act_shown = column_of("Act", "act", {"login.failed": "danger", "grant": "success", "refund": "warning"})

    @column("Details")
    def summary(self, record: Record) -> SafeString:
        text = ", ".join(f"{name} {value}" for name, value in record.details.items() if value not in (None, ""))
        return format_html('<span class="kiln-break" title="{}">{}</span>', text, text[:120])

    @column("Details")
    def details_shown(self, record: Record) -> SafeString:
        return format_html('<pre class="kiln-mono">{}</pre>', json.dumps(record.details, indent=2, ensure_ascii=False))

    previous_shown = column_of("Hash of the previous record", lambda row: mono(bytes(row.previous).hex()))
    hash_shown = column_of("Hash", lambda row: mono(bytes(row.hash).hex()))
