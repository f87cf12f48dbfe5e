"""The operator's pages for jobs and workers. The only change that an operator makes to a job is `lifecycle.cancel`."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from django.contrib import admin, messages
from django.contrib.admin import SimpleListFilter
from django.db.models import QuerySet
from django.db.models.functions import Now
from django.http import HttpRequest, HttpResponse
from django.template.defaultfilters import filesizeformat
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.text import Truncator
from unfold.decorators import action
from unfold.forms import BaseDialogForm

from billing import clock
from billing.models import Hold, PriceListVersion, Transfer
from billing.prices.pricing import Quote
from inference.request import Operation
from marketplace.console import dialogs
from marketplace.console.tables import (
    ReadOnlyTable,
    accounts_of,
    as_uuid,
    column,
    column_of,
    link,
    link_to_account,
    mono,
    tokens,
)
from marketplace.identifiers import first_uuid7
from marketplace.jobs import lifecycle, storage
from marketplace.jobs.errors import NotCancelable
from marketplace.jobs.models import ALIVE_WITHIN, Image, Job, Status, Worker

PROMPT_SHOWN = 70
STATUS_COLOURS = {
    Status.QUEUED: "info",
    Status.RUNNING: "warning",
    Status.SUCCEEDED: "success",
    Status.FAILED: "danger",
    Status.CANCELED: "",
}
WORKER_COLOURS = {"warm": "success", "warming up": "warning", "silent": "danger"}


class CreatedFilter(SimpleListFilter):
    """A filter by age through the primary key, since job ids are ordered by time."""

    title = "created"
    parameter_name = "created"
    spans = {
        "hour": ("Last hour", timedelta(hours=1)),
        "day": ("Last 24 hours", timedelta(days=1)),
        "week": ("Last 7 days", timedelta(days=7)),
    }

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(name, title) for name, (title, _) in self.spans.items()]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Job]) -> QuerySet[Job]:
        span = self.spans.get(self.value() or "")
        return queryset.filter(pk__gte=first_uuid7(clock.now() - span[1])) if span else queryset


@admin.register(Job)
class JobAdmin(dialogs.AskPermissions, ReadOnlyTable):
    list_display = ("picture", "prompt", "account_shown", "status_shown", "size", "cost", "created_at")
    list_display_links = ("picture", "prompt")
    list_filter = ("status", CreatedFilter)
    list_select_related = ("account__owner",)
    list_per_page = 25
    search_fields = ("id",)
    search_help_text = "Job id, account id or full e-mail address"
    change_form_outer_before_template = "console/job.html"
    actions = ("cancel_selected",)
    actions_detail = ("cancel", "refund")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Job]:
        rows: QuerySet[Job] = super().get_queryset(request)
        return rows.select_related("account__owner").prefetch_related("images")

    def get_fieldsets(self, request: HttpRequest, obj: Job | None = None) -> list[Any]:
        """Return no fieldsets, since the template shows the job."""
        return []

    def search(self, rows: QuerySet[Job], term: str) -> QuerySet[Job]:
        key = as_uuid(term)
        if key is not None and Job.objects.filter(pk=key).exists():
            return rows.filter(pk=key)
        return rows.filter(account__in=accounts_of(term))

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        job = self.get_object(request, object_id)
        shown = {"console": page(job), "title": "Job"} if job else {}
        response: HttpResponse = super().change_view(request, object_id, form_url, {**(extra_context or {}), **shown})
        return response

    def has_cancel_permission(self, request: HttpRequest, object_id: object = None) -> bool:
        return bool(request.user.has_perm("jobs.change_job"))

    def get_actions_detail(self, request: HttpRequest, object_id: Any) -> list[Any]:
        """Offer to cancel a job that is open, and to refund one that has ended and was charged."""
        job = self.get_object(request, str(object_id))
        offered = "" if job is None else "cancel" if not job.is_final else "refund" if job.captured else ""
        found = super().get_actions_detail(request, object_id)
        return [each for each in found if each.path == offered]

    @admin.action(description="Cancel", permissions=["cancel"])
    def cancel_selected(self, request: HttpRequest, queryset: QuerySet[Job]) -> None:
        outcomes = [self._cancel(request, job) for job in queryset]
        messages.info(request, f"Canceled or stopping: {sum(outcomes)}. Already ended: {outcomes.count(False)}.")

    @action(  # type: ignore[untyped-decorator]
        description="Cancel",
        permissions=["cancel"],
        icon="cancel",
        dialog={
            "title": "Cancel this job?",
            "description": "A queued job ends without charge. A running one stops, delivers the pictures that are"
            " finished, and is charged for these and the steps of the others.",
            "form_submit_text": "Yes, cancel the job",
        },
    )
    def cancel(self, request: HttpRequest, form: BaseDialogForm, object_id: str) -> HttpResponse:
        job = self.get_object(request, object_id)
        if job is not None and self._cancel(request, job):
            messages.success(request, "The job was canceled, or stops at its next step.")
        else:
            messages.warning(request, "The job had already ended.")
        return HttpResponse(headers={"HX-Redirect": reverse("admin:jobs_job_change", args=[object_id])})

    refund = dialogs.asking(
        "Refund", "undo", dialogs.JobRefundForm, "Refund this job",
        "Returns Tokens to the customer. Above your limit, a second person must approve.",
    )  # fmt: skip

    def _cancel(self, request: HttpRequest, job: Job) -> bool:
        """Cancel a job; return False if it had already ended."""
        try:
            lifecycle.cancel(job.account_id, job.pk)
        except NotCancelable:
            return False
        self.log_change(request, job, "Canceled.")
        return True

    @column("Picture")
    def picture(self, job: Job) -> SafeString:
        images = job.images.all()
        if not images:
            return SafeString('<span class="kiln-preview"></span>')
        more = format_html('<span class="kiln-more">+{}</span>', len(images) - 1) if len(images) > 1 else ""
        return format_html(
            '<span class="kiln-preview"><img src="{}" alt="" loading="lazy" width="48" height="48">{}</span>',
            storage.signed_path(images[0])[0],
            more,
        )

    @column("Prompt")
    def prompt(self, job: Job) -> SafeString:
        text = job.order["prompt"]
        return format_html(
            '<span class="kiln-break" title="{}">{}</span><br>{}',
            Truncator(text).chars(1000),
            Truncator(text).chars(PROMPT_SHOWN) or ("(forgotten)" if job.forgotten_at else "(empty prompt)"),
            mono(job.pk),
        )

    account_shown = column_of("Account", link_to_account)
    status_shown = column_of("Status", "status", STATUS_COLOURS)

    @column("Order")
    def size(self, job: Job) -> SafeString:
        return format_html(
            '<span class="kiln-nowrap">{} × {}×{}</span><br><span class="kiln-nowrap">{} steps, {}</span>',
            job.n,
            job.order["width"],
            job.order["height"],
            job.order["steps"],
            job.service_class,
        )

    @column("Tokens")
    def cost(self, job: Job) -> SafeString:
        if job.is_final:
            return format_html('<span class="kiln-nowrap">{}</span><br>captured', tokens(job.captured))
        return format_html('<span class="kiln-nowrap">{}</span><br>held', tokens(job.held))


def state_of(worker: Worker, now: datetime) -> str:
    """Return how a worker is; `now` is the database's time, by which it was seen."""
    if worker.seen_at < now - ALIVE_WITHIN:
        return "silent"
    return "warm" if worker.warm else "warming up"


@admin.register(Worker)
class WorkerAdmin(ReadOnlyTable):
    list_display = ("name", "state", "running", "model", "revision_shown", "seen_at", "started_at")
    fields = ("name", "state", "running", "model", "revision", "seen_at", "started_at")
    readonly_fields = fields

    def get_queryset(self, request: HttpRequest) -> QuerySet[Worker]:
        rows: QuerySet[Worker] = super().get_queryset(request).annotate(moment=Now())
        return rows

    state = column_of("State", lambda row: state_of(row, row.moment), WORKER_COLOURS)
    revision_shown = column_of("Revision", lambda row: mono(row.revision[:12]))


def page(job: Job) -> dict[str, Any]:
    """Return what the job's page shows; every amount comes from the stored quote, the hold or the transfers."""
    hold = Hold.objects.filter(reference=job.pk).first()
    return {
        "job": job,
        "colour": STATUS_COLOURS[Status(job.status)],
        "account": link_to_account(job),
        "pictures": pictures(job),
        "factors": factors(job),
        "price_list": link(PriceListVersion, job.quote["price_list"], f"Version {job.quote['price_list']}"),
        "money": money(job, hold),
        "transfers": [
            (link(Transfer, row.pk, f"Transfer {row.pk}"), row.kind, tokens(row.amount), row.created_at)
            for row in Transfer.objects.filter(reference=job.pk).order_by("pk")[:100]
        ],
        "timeline": timeline(job),
    }


def pictures(job: Job) -> list[dict[str, Any]]:
    """Return an entry for each picture ordered: its image, if it was delivered, and the steps that it took."""
    images: dict[int, Image] = {image.index: image for image in job.images.all()}
    outcomes = (job.receipt or {}).get("images", [])
    entries = []
    for index in range(job.n):
        image = images.get(index)
        outcome = outcomes[index] if index < len(outcomes) else None
        entries.append(
            {
                "image": image,
                "url": storage.signed_path(image)[0] if image else "",
                "size": filesizeformat(image.size) if image else "",
                "seed": job.seed_of(index),
                "outcome": outcome,
            }
        )
    return entries


def factors(job: Job) -> list[tuple[str, str, str]]:
    """Return every factor of the stored quote: name, value and meaning."""
    order, found = job.order, dict(job.quote["factors"])
    seen = " and those at which it sees its pictures" if job.operation == Operation.EDIT else ""
    meanings = {
        "base_cost": "Tokens for one megapixel, 50 steps and 100 characters",
        "resolution": f"{order['width']}×{order['height']} pixels{seen} ÷ 1024²",
        "steps": f"{job.quote['steps']} of 50",
        "prompt": "√(characters ÷ 100), counting at least the price list's floor",
        "service_class": job.service_class,
        "operation": job.operation,
        "n": f"{job.quote['unit']} Tokens each",
    }
    known = [(_title(name), found.pop(name), meaning) for name, meaning in meanings.items() if name in found]
    return known + [(_title(name), value, "") for name, value in found.items()]


def money(job: Job, hold: Hold | None) -> list[tuple[str, str | SafeString]]:
    """Return the job's amounts in the order in which they arise."""
    offer = Quote.from_json(job.quote)
    rows: list[tuple[str, str | SafeString]] = [
        ("One picture", tokens(offer.unit)),
        ("Quoted", tokens(job.quoted)),
        ("Held now", tokens(job.held)),
        ("Captured", tokens(job.captured)),
        ("Released", tokens(job.released)),
    ]
    if hold is not None:
        rows += [("Refunded", tokens(hold.refunded)), ("Hold", link(Hold, hold.pk, f"Hold {hold.pk}, {hold.status}"))]
    return rows


def timeline(job: Job) -> list[tuple[str, Any]]:
    """Return the job's details and times; rows without a value are left out."""
    key = job.api_key
    rows = [
        ("Service class", job.service_class),
        ("Operation", job.operation),
        ("Model", job.model),
        *((_title(name), _pictures(value)) for name, value in job.order.items() if "prompt" not in name),
        ("Steps run", f"{job.step} of {job.steps}"),
        ("Attempt", job.attempt),
        ("Worker", job.worker),
        ("Created", job.created_at),
        ("Dispatched", job.dispatched_at),
        ("Started", job.started_at),
        ("Cancel requested", job.cancel_requested_at),
        ("Finished", job.finished_at),
        *((_title(name), value) for name, value in job.timings.items()),
        ("Seed", job.seed),
        ("API key", link(type(key), key.pk, key) if key else None),
        ("Idempotency key", job.idempotency_key),
        *((f"Metadata {name}", value) for name, value in job.metadata.items()),
    ]
    return [(name, value) for name, value in rows if value not in (None, "")]


def _pictures(value: Any) -> Any:
    """Return input pictures by size and file; anything else as it is."""
    if isinstance(value, dict):
        return f"{value['width']}×{value['height']}, file {value['file']}"
    if isinstance(value, list):
        return "; ".join(str(_pictures(each)) for each in value)
    return value


def _title(name: str) -> str:
    return {"n": "Pictures"}.get(name, name.replace("_", " ").capitalize())
