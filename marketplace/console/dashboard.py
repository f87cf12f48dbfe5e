"""The figures on the first page of /admin/, each read from an index, so that they stay fast with millions of rows."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import Any

from django.db import connection
from django.db.models import Count, Sum
from django.db.models.functions import TruncHour
from django.http import HttpRequest
from django.utils import timezone
from django.utils.text import Truncator
from django.utils.timesince import timesince

from billing import clock
from billing.models import Hold, Transfer
from marketplace.console.jobs import STATUS_COLOURS, WORKER_COLOURS, state_of
from marketplace.console.tables import link, link_to_account, tokens
from marketplace.identifiers import first_uuid7
from marketplace.jobs import metrics
from marketplace.jobs.models import Image, Job, ServiceClass, Status, Worker

NEEDED = ("jobs.view_job", "jobs.view_worker", "billing.view_transfer", "billing.view_hold")
HOURS = 24
FAILURES = 5


def context(request: HttpRequest, context: dict[str, Any]) -> dict[str, Any]:
    """Add `figures` for operators who may see the tables behind them. Unfold calls this hook."""
    if not request.user.has_perms(NEEDED):  # type: ignore[union-attr]
        return context
    now = clock.now()
    return {**context, "title": "Dashboard", "figures": figures(now)}


def figures(now: datetime) -> dict[str, Any]:
    hours = pictures_an_hour(now)
    workers = [(worker, state_of(worker, now)) for worker in Worker.objects.order_by("name")]
    queues = queued()
    return {
        "now": now,
        "tokens": tokens_today(now),
        "pictures": sum(hours.values()),
        "workers": [(worker, state, WORKER_COLOURS[state]) for worker, state in workers],
        "alive": sum(state != "silent" for _, state in workers),
        "late": [(name, _wait(seconds)) for name, seconds in metrics.late().items()],
        "queued": sum(count for _, count, _ in queues),
        "queues": queues,
        "jobs": jobs_by_status(now),
        "chart": chart(hours),
        "failures": last_failures(),
    }


def tokens_today(now: datetime) -> dict[str, str]:
    """Return the Tokens held now, and those of each kind of transfer since midnight UTC."""
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    moved = Transfer.objects.filter(created_at__gte=midnight).values("kind").annotate(sum=Sum("amount")).order_by()
    sums = {row["kind"]: int(row["sum"]) for row in moved}
    held = Hold.objects.filter(status=Hold.Status.HELD).aggregate(sum=Sum("amount"))["sum"]
    return {"held": tokens(int(held or 0)), **{kind: tokens(sums.get(kind, 0)) for kind in Transfer.Kind.values}}


def queued() -> list[tuple[str, int, str]]:
    """Return each service class with its queued jobs and how long the oldest has waited."""
    with connection.cursor() as cursor:
        cursor.execute(metrics.QUEUES)
        found = {name: (count, seconds) for name, count, seconds in cursor.fetchall()}
    waits = {name: found.get(name, (0, None)) for name in ServiceClass.values}
    return [(name, count, _wait(seconds)) for name, (count, seconds) in waits.items()]


def jobs_by_status(now: datetime) -> list[tuple[str, int, str]]:
    """Return each status with its number of jobs and its colour; ended jobs count if created in the last 24 hours."""
    since = first_uuid7(now - timedelta(hours=HOURS))
    counts: dict[str, int] = {}
    for rows in (
        Job.objects.filter(status__in=(Status.QUEUED, Status.RUNNING)),
        Job.objects.filter(status__in=(Status.SUCCEEDED, Status.FAILED, Status.CANCELED), pk__gte=since),
    ):
        counts |= dict(rows.values_list("status").annotate(Count("pk")).order_by())
    return [(status, counts.get(status, 0), STATUS_COLOURS[Status(status)]) for status in Status.values]


def pictures_an_hour(now: datetime) -> dict[datetime, int]:
    """Count the pictures delivered in each of the last 24 hours, including the current one."""
    this_hour = now.replace(minute=0, second=0, microsecond=0)
    hours = [this_hour - timedelta(hours=back) for back in range(HOURS - 1, -1, -1)]
    made = Image.objects.filter(pk__gte=first_uuid7(hours[0]))
    counts = dict(made.values_list(TruncHour("created_at")).annotate(Count("pk")).order_by())
    return {hour: counts.get(hour, 0) for hour in hours}


def chart(hours: dict[datetime, int]) -> str:
    """Return the data of Unfold's bar chart as JSON."""
    bars = {
        "label": "Pictures",
        "data": list(hours.values()),
        "backgroundColor": "var(--color-primary-500)",
        "displayYAxis": True,
        "maxTicksXLimit": 12,
        "maxBarThickness": 24,
        "borderRadius": 4,
    }
    return json.dumps({"labels": [f"{hour:%H}:00" for hour in hours], "datasets": [bars]})


def last_failures() -> list[dict[str, Any]]:
    failed = Job.objects.filter(status=Status.FAILED).select_related("account__owner").order_by("-pk")
    return [
        {
            "job": link(Job, job.pk, Truncator(job.order["prompt"]).chars(60) or "(no prompt)"),
            "account": link_to_account(job),
            "code": job.error_code,
            "message": job.error_message,
            "finished_at": job.finished_at,
        }
        for job in failed[:FAILURES]
    ]


def _wait(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    if seconds < 60:
        return f"{seconds:.0f} s"
    now = timezone.now()
    return timesince(now - timedelta(seconds=seconds), now, depth=2)
