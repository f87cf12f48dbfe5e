"""The operator's pages for approval requests: those that wait for a second person, and what became of the others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast
from uuid import UUID

from django.contrib import admin, messages
from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from unfold.decorators import action
from unfold.enums import ActionVariant
from unfold.forms import BaseDialogForm

from marketplace.accounts.models import Person
from marketplace.approvals import requests
from marketplace.approvals.act import Act, Reference
from marketplace.approvals.models import Request
from marketplace.approvals.requests import ApprovalError
from marketplace.audit.models import Record
from marketplace.console import dialogs
from marketplace.console.tables import NOTHING, ReadOnlyTable, as_uuid, choices, column, column_of, link, link_to_list

STATUS_COLOURS = {
    "pending": "warning", "approved": "info", "executed": "success", "failed": "danger", "rejected": "danger",
    "expired": "",
}  # fmt: skip
STATUSES = {status.value: (str(status.label), Q(status=status)) for status in Request.Status}


@admin.register(Request)
class RequestAdmin(ReadOnlyTable):
    list_display = ("title", "status_shown", "what", "reason_shown", "asked", "decided")
    list_filter = (choices("status", STATUSES),)
    list_select_related = ("asked_by", "decided_by")
    search_fields = ("id",)
    search_help_text = "Approval request id, or requester's full e-mail address"
    fields = (
        "title", "status_shown", "what", "reason_shown", "asked", "expires_at", "decided", "note", "outcome",
        "ended_at", "records",
    )  # fmt: skip
    readonly_fields = fields
    actions_detail = actions_row = ("approve", "reject")

    def search(self, rows: QuerySet[Request], term: str) -> QuerySet[Request]:
        if (request_id := as_uuid(term)) is not None:
            return rows.filter(pk=request_id)
        return rows.filter(asked_by__email=term.lower())

    def has_decide_permission(self, request: HttpRequest, object_id: object = None) -> bool:
        return bool(request.user.has_perm(requests.DECIDE))

    def get_actions_detail(self, request: HttpRequest, object_id: Any) -> list[Any]:
        """Offer nothing for a request that is decided, nor to the person who asked."""
        row = self.get_object(request, str(object_id))
        if row is None or row.status != Request.Status.PENDING or row.asked_by_id == request.user.pk:
            return []
        return list(super().get_actions_detail(request, object_id))

    @action(  # type: ignore[untyped-decorator]
        description="Approve",
        permissions=["decide"],
        icon="check",
        variant=ActionVariant.SUCCESS,
        dialog={
            "title": "Approve this request?",
            "description": "It is carried out at once, in your name and the name of the person who asked.",
            "form_submit_text": "Approve",
        },
    )
    def approve(self, request: HttpRequest, form: BaseDialogForm, object_id: str) -> HttpResponse:
        return _decide(request, object_id, lambda person: requests.approve(person, UUID(object_id)))

    @action(  # type: ignore[untyped-decorator]
        description="Reject",
        permissions=["decide"],
        icon="block",
        dialog={"title": "Reject this request?", "form_class": dialogs.RejectForm, "form_submit_text": "Reject"},
    )
    def reject(self, request: HttpRequest, form: BaseDialogForm, object_id: str) -> HttpResponse:
        note = form.cleaned_data["note"]
        return _decide(request, object_id, lambda person: requests.reject(person, UUID(object_id), note))

    title = column_of("Act", lambda row: requests.act_of(row).title)
    status_shown = column_of("Status", "status", STATUS_COLOURS)

    @column("Details")
    def what(self, row: Request) -> SafeString:
        return format_html_join("", '<div class="kiln-factor">{}: {}</div>', _lines(requests.act_of(row)))

    reason_shown = column_of("Reason", lambda row: format_html('<span class="kiln-break">{}</span>', row.reason))
    asked = column_of("Asked", lambda row: _who_when(row.asked_by, row.asked_at))

    @column("Decided")
    def decided(self, row: Request) -> SafeString | str:
        if row.decided_by is not None:
            return _who_when(row.decided_by, row.decided_at)
        return NOTHING if row.needs_approval else "within the limit"

    @column("Audit")
    def records(self, row: Request) -> SafeString:
        return link_to_list(Record, "Audit records of this request", q=f"request {row.pk}")


def _lines(act: Act) -> list[tuple[str, str | SafeString]]:
    """Return what is asked for, with a link to each row that it is about."""
    return [(title, link(*value) if isinstance(value, Reference) else value) for title, value in act.lines()]


def _who_when(person: Person, moment: Any) -> SafeString:
    return format_html("{}<br>{}", link(Person, person.pk, person.email), f"{moment:%Y-%m-%d %H:%M:%S} UTC")


def _decide(request: HttpRequest, request_id: str, verb: Callable[[Person], Request]) -> HttpResponse:
    try:
        decided = verb(cast(Person, request.user))
    except ApprovalError as error:
        messages.error(request, str(error))
    else:
        dialogs.tell(request, decided)
    return HttpResponse(headers={"HX-Redirect": dialogs.address(request_id)})
