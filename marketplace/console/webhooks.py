"""The operator's pages for webhooks and deliveries, read-only. Secrets are nowhere shown."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.contrib import admin
from django.db.models import Q, QuerySet

from marketplace.accounts.models import Account
from marketplace.console.tables import (
    NOTHING,
    OwnedTable,
    accounts_of,
    as_uuid,
    column_of,
    link,
    link_to_list,
    mono,
)
from marketplace.jobs.models import Job
from marketplace.webhooks.models import Delivery, Endpoint

STATES = {"enabled": "success", "gone": "danger", "failing": "danger", "owner": "warning"}


@admin.register(Endpoint)
class EndpointAdmin(OwnedTable):
    owner = "account_id"
    list_display = ("webhook", "account_shown", "url", "state", "failures", "paused_until", "created_at")
    search_fields = ("id",)
    search_help_text = "Webhook or account id, or full e-mail address"
    fields = (
        "account_shown", "url", "description", "types", "state", "failures", "failing_since", "paused_until",
        "created_at", "sent",
    )  # fmt: skip
    readonly_fields = ("account_shown", "state", "sent")
    webhook = column_of("Webhook", lambda row: mono(row.pk))
    account_shown = column_of("Account", lambda row: link(Account, row.account_id, row.email))
    state = column_of("State", lambda row: row.disabled_reason or "enabled", STATES)
    sent = column_of("Deliveries", lambda row: link_to_list(Delivery, "Deliveries of this webhook", q=row.pk))

    def search(self, rows: QuerySet[Any], term: str) -> QuerySet[Any]:
        return rows.filter(Q(pk=as_uuid(term)) | Q(account_id__in=accounts_of(term)))


@admin.register(Delivery)
class DeliveryAdmin(OwnedTable):
    owner = "account_id"
    list_display = (
        "delivery", "account_shown", "type", "channel", "status_shown", "attempts", "answered", "error", "created_at",
    )  # fmt: skip
    search_fields = ("id",)
    search_help_text = "Delivery, webhook or account id, or full e-mail address"
    fields = (
        "account_shown", "webhook", "type", "channel", "event", "job_shown", "status_shown", "attempts", "next_at",
        "answered", "answer", "error", "happened_at", "created_at", "finished_at",
    )  # fmt: skip
    readonly_fields = ("account_shown", "webhook", "job_shown", "status_shown")
    delivery = column_of("Delivery", lambda row: mono(row.pk))
    account_shown = column_of("Account", lambda row: link(Account, row.account_id, row.email))
    webhook = column_of("Webhook", lambda row: _link_to(Endpoint, row.endpoint_id))
    job_shown = column_of("Job", lambda row: _link_to(Job, row.job))
    status_shown = column_of("Status", "status", {"delivered": "success", "failed": "danger"})

    def search(self, rows: QuerySet[Any], term: str) -> QuerySet[Any]:
        found = as_uuid(term)
        return rows.filter(Q(pk=found) | Q(endpoint=found)) | rows.filter(account_id__in=accounts_of(term))


def _link_to(model: type[Endpoint] | type[Job], key: UUID | None) -> object:
    return link(model, key, mono(key)) if key else NOTHING
