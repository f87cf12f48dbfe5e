"""The operator's pages for adapters: what there is, what is to be published, and what was reported."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django import forms
from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import FileResponse, Http404, HttpRequest, HttpResponse
from django.urls import path, reverse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from unfold.decorators import action
from unfold.forms import BaseDialogForm
from unfold.widgets import UnfoldAdminTextareaWidget

from billing.amounts import format_fraction
from lora import opinions
from lora.errors import UnknownAdapter, UnknownVersion
from lora.models import Adapter, Publication, Report, Version
from marketplace.accounts.columns import ProseField
from marketplace.adapters import publishing
from marketplace.audit import trail
from marketplace.console.tables import (
    NOTHING,
    OwnedTable,
    ReadOnlyTable,
    accounts_of,
    as_uuid,
    column,
    column_of,
    mono,
    operator,
    picture,
)

STATUS_COLOURS = {"pending": "warning", "approved": "success", "refused": "danger", "withdrawn": ""}
VISIBILITY_COLOURS = {"published": "success", "shared": "info", "private": ""}


class ReasonForm(BaseDialogForm):  # type: ignore[misc]
    reason = ProseField(
        max_length=500, widget=UnfoldAdminTextareaWidget(attrs={"rows": 3}), help_text="Its maker is told."
    )


class OutcomeForm(BaseDialogForm):  # type: ignore[misc]
    outcome = ProseField(max_length=500, widget=UnfoldAdminTextareaWidget(attrs={"rows": 3}))
    take_down = forms.BooleanField(
        required=False,
        label="Take the adapter down",
        help_text="Then only its maker, and those it is shared with, use it.",
    )


@admin.register(Adapter)
class AdapterAdmin(OwnedTable):
    empty = "Adapters that customers send or train are here, with their versions and samples."
    list_display = ("adapter", "name", "owner_shown", "visibility_shown", "versions_shown", "uses", "created_at")
    list_filter = ("visibility",)
    list_select_related = ("owner",)
    search_fields = ("id",)
    search_help_text = "Adapter or account id, full e-mail address, or maker/slug"
    fields = (
        *list_display, "description", "trigger_words", "tags", "base_model", "base_revision", "shown_versions",
        "samples", "deleted_at",
    )  # fmt: skip
    readonly_fields = fields
    owner = "owner_id"

    def search(self, rows: QuerySet[Adapter], term: str) -> QuerySet[Adapter]:
        handle, _, slug = term.partition("/")
        if slug:
            return rows.filter(owner__handle=handle, slug=slug)
        if (key := as_uuid(term)) is not None and Adapter.objects.filter(pk=key).exists():
            return rows.filter(pk=key)
        return rows.filter(owner_id__in=accounts_of(term))

    def get_urls(self) -> list[Any]:
        view = self.admin_site.admin_view(self.samples_of)
        return [path("<uuid:adapter_id>/samples/<int:number>", view, name="lora_samples"), *super().get_urls()]

    def samples_of(self, request: HttpRequest, adapter_id: UUID, number: int) -> FileResponse:
        """Show a version's samples to operators who may see adapters."""
        allowed = self.has_view_permission(request)
        version = Version.objects.filter(adapter=adapter_id, number=number).first() if allowed else None
        if version is None or not version.samples:
            raise Http404
        return picture(version.samples[-1]["path"])

    adapter = column_of("Adapter", lambda row: mono(str(row)))
    owner_shown = column_of("Account", lambda row: row.email or NOTHING)
    visibility_shown = column_of("Visibility", "visibility", VISIBILITY_COLOURS)
    versions_shown = column_of("Versions", lambda row: row.versions.filter(deleted_at=None).count())

    @column("Versions")
    def shown_versions(self, row: Adapter) -> SafeString | str:
        told = (
            (each.number, each.status, each.origin, each.rank, each.sha256[:12] or each.reason)
            for each in row.versions.order_by("-number")[:50]
        )
        return format_html_join("", "{}: {}, {}, rank {}, {}<br>", told) or NOTHING

    @column("Samples")
    def samples(self, row: Adapter) -> SafeString | str:
        shown = [each.number for each in row.versions.order_by("-number")[:20] if each.samples]
        pictures = ((number, reverse("admin:lora_samples", args=[row.pk, number])) for number in shown)
        return format_html_join("", _FIGURE, ((number, address, number) for number, address in pictures)) or NOTHING


_FIGURE = (
    '<figure style="margin: 0 0 1em"><figcaption>version {}</figcaption><img src="{}" alt="samples of version {}"'
    ' loading="lazy" style="max-width: 100%"></figure>'
)


@admin.register(Publication)
class PublicationAdmin(ReadOnlyTable):
    """What makers ask to publish. One operator decides; each decision is in the audit."""

    empty = "What makers ask to publish waits here for your decision."
    list_display = ("publication", "status_shown", "fee_shown", "licence", "tags", "created_at", "decided_at")
    list_filter = ("status",)
    list_select_related = ("version__adapter__owner",)
    ordering = ("-created_at",)
    fields = (*list_display, "reason", "description", "samples")
    readonly_fields = fields
    actions_detail = ("approve", "refuse")

    def get_actions_detail(self, request: HttpRequest, object_id: Any) -> list[Any]:
        row = self.get_object(request, str(object_id))
        pending = row is not None and row.status == Publication.Status.PENDING
        return list(super().get_actions_detail(request, object_id)) if pending else []

    def has_decide_permission(self, request: HttpRequest, object_id: object = None) -> bool:
        return bool(request.user.has_perm("lora.change_publication"))

    @action(  # type: ignore[untyped-decorator]
        description="Approve",
        permissions=["decide"],
        icon="check",
        dialog={
            "title": "Publish this version?",
            "description": "Everybody may then order with it under these terms.",
            "form_submit_text": "Publish",
        },
    )
    def approve(self, request: HttpRequest, form: BaseDialogForm, object_id: str) -> HttpResponse:
        try:
            with trail.acting(operator(request)):
                done = publishing.approve(self._row(object_id))
        except (UnknownAdapter, UnknownVersion):
            done = False
        return self._answer(request, object_id, done, "Published.")

    @action(  # type: ignore[untyped-decorator]
        description="Refuse",
        permissions=["decide"],
        icon="block",
        dialog={"title": "Refuse to publish it?", "form_class": ReasonForm, "form_submit_text": "Refuse"},
    )
    def refuse(self, request: HttpRequest, form: ReasonForm, object_id: str) -> HttpResponse:
        with trail.acting(operator(request)):
            done = publishing.refuse(self._row(object_id), form.cleaned_data["reason"])
        return self._answer(request, object_id, done, "Refused; its maker can read why.")

    def _row(self, object_id: str) -> Publication:
        return Publication.objects.select_related("version", "adapter").get(pk=object_id)

    def _answer(self, request: HttpRequest, object_id: str, done: bool, text: str) -> HttpResponse:
        if done:
            messages.success(request, text)
        else:
            messages.warning(request, "It was decided, or deleted, in the meantime.")
        return HttpResponse(headers={"HX-Redirect": reverse("admin:lora_publication_change", args=[object_id])})

    publication = column_of("Version", lambda row: str(row.version))
    status_shown = column_of("Status", "status", STATUS_COLOURS)
    fee_shown = column_of("Fee", lambda row: f"{format_fraction(row.fee, 3)} of a picture")
    description = column_of("Description", lambda row: row.adapter.description or NOTHING)

    @column("Samples")
    def samples(self, row: Publication) -> SafeString | str:
        if not row.version.samples:
            return NOTHING
        number = row.version.number
        return format_html(_FIGURE, number, reverse("admin:lora_samples", args=[row.adapter_id, number]), number)


@admin.register(Report)
class ReportAdmin(ReadOnlyTable):
    empty = "Complaints about published adapters are here until somebody closes them."
    list_display = ("report", "reason", "state", "created_at", "closed_at")
    list_select_related = ("adapter__owner",)
    fields = (*list_display, "text", "outcome", "account")
    readonly_fields = fields
    actions_detail = ("close",)

    def get_actions_detail(self, request: HttpRequest, object_id: Any) -> list[Any]:
        row = self.get_object(request, str(object_id))
        offered = row is not None and row.closed_at is None
        return list(super().get_actions_detail(request, object_id)) if offered else []

    def has_decide_permission(self, request: HttpRequest, object_id: object = None) -> bool:
        return bool(request.user.has_perm("lora.change_report"))

    @action(  # type: ignore[untyped-decorator]
        description="Close",
        permissions=["decide"],
        icon="task_alt",
        dialog={"title": "Close this report?", "form_class": OutcomeForm, "form_submit_text": "Close"},
    )
    def close(self, request: HttpRequest, form: OutcomeForm, object_id: str) -> HttpResponse:
        row = Report.objects.select_related("adapter").get(pk=object_id)
        with trail.acting(operator(request)):
            if opinions.close(row, form.cleaned_data["outcome"]) and form.cleaned_data["take_down"]:
                publishing.take_down(row.adapter, form.cleaned_data["outcome"])
        return HttpResponse(headers={"HX-Redirect": reverse("admin:lora_report_change", args=[object_id])})

    report = column_of("Adapter", lambda row: str(row.adapter))
    state = column_of("State", lambda row: "closed" if row.closed_at else "open", {"open": "warning"})
