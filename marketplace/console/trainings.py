"""The operator's pages for trainings and their tiers: how a training goes on, what it has cost, and what is sold."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import FileResponse, Http404, HttpRequest, HttpResponse
from django.urls import path, reverse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from unfold.decorators import action
from unfold.forms import BaseDialogForm

from billing.amounts import format_fraction
from lora import tiers
from lora.models import Tier
from marketplace.console import dialogs
from marketplace.console.jobs import STATUS_COLOURS
from marketplace.console.tables import (
    NOTHING,
    ReadOnlyTable,
    accounts_of,
    as_uuid,
    column,
    column_of,
    link_to_account,
    mono,
    picture,
    tokens,
    tokens_of,
)
from marketplace.trainings import lifecycle
from marketplace.trainings.errors import NotCancelable
from marketplace.trainings.models import Training

WIDTH, HEIGHT = 480, 120
"""Of the curve, in pixels."""


@admin.register(Tier)
class TierAdmin(dialogs.AskPermissions, ReadOnlyTable):
    """The pages of tiers. New terms make a new version; all that changes in a version is whether it is sold."""

    list_display = ("tier", "state", "base_cost_shown", "surcharge_shown", "allows", "created_at")
    fields = (*list_display, "description", "versions_kept", "service_class", "may_publish", "floor")
    readonly_fields = fields
    base_cost_shown = tokens_of("base_cost", "1,000 steps")
    actions_list = ("new_tier",)
    actions_detail = ("new_version", "stop_sale")

    new_tier = dialogs.asking("New tier", "add", dialogs.TierForm, "New tier", dialogs.SECOND_PERSON)
    new_version = dialogs.asking(
        "Sell on new terms", "edit", dialogs.TierForm, "Sell on new terms", dialogs.SECOND_PERSON
    )

    stop_sale = dialogs.stopping("tier", "Trainings that were ordered keep it.", tiers.stop)
    tier = column_of("Tier", str)
    state = column_of("State", lambda row: "on sale" if row.active else "off sale", {"on sale": "success"})
    surcharge_shown = column_of("Surcharge", lambda row: f"{format_fraction(row.surcharge, 3)} of a picture")

    @column("Allows")
    def allows(self, row: Tier) -> str:
        sizes = f"{row.most_pictures} pictures at {row.side}², rank {row.rank}, {row.most_steps} steps"
        return f"{sizes}, {row.layers} layers"


@admin.register(Training)
class TrainingAdmin(ReadOnlyTable):
    empty = "Trainings that customers order are here, with how they go on and what they show."
    list_display = ("training", "adapter", "account_shown", "status_shown", "progress", "cost", "created_at")
    list_filter = ("status",)
    list_select_related = ("adapter__owner", "tier", "account__owner", "version")
    search_fields = ("id",)
    search_help_text = "Training id, account id or full e-mail address"
    fields = (
        "status_shown", "adapter", "account_shown", "tier", "progress", "cost", "version", "pictures", "resolution",
        "curve", "samples", "error", "attempt", "failures", "worker", "created_at", "started_at", "finished_at",
        "cleared_at",
    )  # fmt: skip
    readonly_fields = fields
    actions_detail = ("cancel",)

    def search(self, rows: QuerySet[Training], term: str) -> QuerySet[Training]:
        key = as_uuid(term)
        if key is not None and Training.objects.filter(pk=key).exists():
            return rows.filter(pk=key)
        return rows.filter(account__in=accounts_of(term))

    def get_urls(self) -> list[Any]:
        view = self.admin_site.admin_view(self.samples_of)
        return [path("<uuid:training_id>/samples/<int:step>", view, name="trainings_samples"), *super().get_urls()]

    def samples_of(self, request: HttpRequest, training_id: UUID, step: int) -> FileResponse:
        """Show the pictures of a step to operators who may see trainings."""
        found = Training.objects.filter(pk=training_id).first() if self.has_view_permission(request) else None
        paths = [each["samples"] for each in (found.evaluations if found else ()) if each["step"] == step]
        if not any(paths):
            raise Http404
        return picture(paths[0])

    def has_cancel_permission(self, request: HttpRequest, object_id: object = None) -> bool:
        return bool(request.user.has_perm("trainings.change_training"))

    def get_actions_detail(self, request: HttpRequest, object_id: Any) -> list[Any]:
        row = self.get_object(request, str(object_id))
        offered = row is not None and not row.is_final
        return list(super().get_actions_detail(request, object_id)) if offered else []

    @action(  # type: ignore[untyped-decorator]
        description="Cancel",
        permissions=["cancel"],
        icon="cancel",
        dialog={
            "title": "Cancel this training?",
            "description": "A queued one ends without charge. A running one stops, delivers its best adapter so far,"
            " and is charged for the steps done.",
            "form_submit_text": "Yes, cancel the training",
        },
    )
    def cancel(self, request: HttpRequest, form: BaseDialogForm, object_id: str) -> HttpResponse:
        row = self.get_object(request, object_id)
        try:
            if row is not None:
                lifecycle.cancel(row.account_id, row.pk)
                self.log_change(request, row, "Canceled.")
                messages.success(request, "The training was canceled, or stops within seconds.")
        except NotCancelable:
            messages.warning(request, "The training had already ended.")
        return HttpResponse(headers={"HX-Redirect": reverse("admin:trainings_training_change", args=[object_id])})

    training = column_of("Training", lambda row: mono(row.pk))
    account_shown = column_of("Account", link_to_account)
    status_shown = column_of("Status", "status", STATUS_COLOURS)
    pictures = column_of("Pictures", lambda row: len(row.order.get("pictures", ())))
    resolution = column_of("Resolution", lambda row: f"{row.order['side']}²" if row.order else NOTHING)
    error = column_of("Error", lambda row: f"{row.error_code}: {row.error_message}" if row.error_code else NOTHING)

    @column("Progress")
    def progress(self, row: Training) -> str:
        left = f", {row.seconds_left // 60} min left" if row.seconds_left is not None else ""
        loss = f", loss {row.loss:.4f}" if row.loss is not None else ""
        return f"{row.step} of {row.steps} steps{loss}{left}"

    @column("Tokens")
    def cost(self, row: Training) -> str:
        return f"{tokens(row.captured)} captured" if row.is_final else f"{tokens(row.held)} held"

    @column("Loss on pictures held out")
    def curve(self, row: Training) -> SafeString | str:
        """Draw the losses over the steps; hovering over a point tells its numbers."""
        found = [(each["step"], each["loss"]) for each in row.evaluations]
        if not found:
            return NOTHING
        most = max(loss for _, loss in found) or 1.0
        points = [(step / row.steps * WIDTH, HEIGHT * (1 - loss / most), step, loss) for step, loss in found]
        dots = format_html_join(
            "", '<circle cx="{}" cy="{}" r="4" fill="currentColor"><title>step {}: {}</title></circle>',
            ((f"{x:.1f}", f"{y:.1f}", step, f"{loss:.4f}") for x, y, step, loss in points),
        )  # fmt: skip
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y, *_ in points)
        return format_html(
            '<svg viewBox="-6 -6 {} {}" class="kiln-curve" role="img" aria-label="loss by step"'
            ' style="max-width: 100%; width: {}px"><polyline points="{}" fill="none" stroke="currentColor"/>{}</svg>'
            "<br>from {} to {}",
            WIDTH + 12, HEIGHT + 12, WIDTH, line, dots, f"{found[0][1]:.4f}", f"{found[-1][1]:.4f}",
        )  # fmt: skip

    @column("Samples")
    def samples(self, row: Training) -> SafeString | str:
        shown = [each["step"] for each in row.evaluations if each["samples"]]
        pictures = (
            (step, reverse("admin:trainings_samples", args=[row.pk, step]), f"samples of step {step}") for step in shown
        )
        return format_html_join(
            "", '<figure style="margin: 0 0 1em"><figcaption>step {}</figcaption><img src="{}" alt="{}" loading="lazy"'
            ' style="max-width: 100%"></figure>', pictures,
        ) or NOTHING  # fmt: skip
