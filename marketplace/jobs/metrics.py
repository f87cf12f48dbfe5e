"""The metrics for Prometheus: workers' batches as they happen, queues and Tokens from the database at each scrape.

With `PROMETHEUS_MULTIPROC_DIR` set, all processes of one machine share their counts through that folder.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from django.db import connection
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from billing.amounts import MILLI
from marketplace.adapters import metrics as adapters
from marketplace.celery import PERIODS
from marketplace.jobs.models import ServiceClass
from marketplace.webhooks import metrics as deliveries

if TYPE_CHECKING:  # the engine imports torch, which the web server does not need
    from inference.engine import BatchReport
    from inference.watchdog import RunningBatch
    from marketplace.jobs.lifecycle import Result

# After so many periods without having finished, a periodic task is late; deploy/alerts.yml says the same.
LATE = 3
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
BATCH_SECONDS = Histogram("kiln_batch_seconds", "Seconds of one engine batch", ["phase"], buckets=SECONDS)
BATCH_ROWS = Histogram("kiln_batch_rows", "Requests in one denoising batch", buckets=(1, 2, 4, 8, 16, 32, 64))
STEP_WAIT = Histogram("kiln_step_wait_seconds", "Seconds that started rows waited for their next step", buckets=SECONDS)
BATCH_AGE = Gauge("kiln_batch_age_seconds", "Seconds since the running batch started", multiprocess_mode="livemax")
BATCH_CAP = Gauge("kiln_max_batch_tokens", "Most image tokens in one forward pass", multiprocess_mode="livemin")
STEPS = Counter("kiln_steps", "Denoising steps run, counted for each request")
PICTURES = Counter("kiln_pictures", "Pictures of jobs that this worker ended", ["cache"])
SKIPPED = Counter("kiln_steps_skipped", "Denoising steps that a cache saved", ["cache"])
CAPTURED = Counter("kiln_tokens_captured", "Tokens charged for jobs that this worker ended")

QUEUES = """
SELECT service_class, count(*), COALESCE(EXTRACT(epoch FROM now() - min(created_at)), 0)::float
FROM jobs_job WHERE status = 'queued' GROUP BY service_class
"""
TOKENS = "SELECT COALESCE(sum(amount), 0)::bigint FROM billing_hold WHERE status = 'held'"
RUNNING = "SELECT count(*) FROM jobs_job WHERE status = 'running'"
# Seconds since each periodic task finished; for one that never has, since the tables last changed.
FINISHED = """
SELECT task.name, extract(epoch FROM now() - coalesce(finished_at, (SELECT max(applied) FROM django_migrations)))::float
FROM unnest(%s::text[]) AS task (name) LEFT JOIN maintenance_periodictask USING (name)
"""


def batch(report: BatchReport) -> None:
    """Count a batch; the engine calls this after each one."""
    BATCH_SECONDS.labels(report.phase).observe(report.seconds)
    if report.phase == "denoise":
        BATCH_ROWS.observe(report.rows)
        STEPS.inc(report.rows)
        STEP_WAIT.observe(report.waited)


def engine(running: Sequence[RunningBatch], max_batch_tokens: int) -> None:
    """Report what the engine is doing; called every second."""
    BATCH_AGE.set(max((batch.seconds for batch in running), default=0))
    BATCH_CAP.set(max_batch_tokens)


def delivered(results: Sequence[Result]) -> None:
    """Count a job's pictures, by the cache that they came from or began from."""
    for result in results:
        PICTURES.labels(result.tier).inc()
        SKIPPED.labels(result.tier).inc(result.outcome.steps_skipped)


def captured(charge: int) -> None:
    """Count the milli-Tokens that were charged for a job when it ended."""
    CAPTURED.inc(charge / MILLI)


def page() -> tuple[bytes, str]:
    """Return the metrics page's body and its media type."""
    registry = CollectorRegistry()
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        registry.register(Database())
        return generate_latest(registry), CONTENT_TYPE_LATEST
    registry.register(Database())
    return generate_latest(REGISTRY) + generate_latest(registry), CONTENT_TYPE_LATEST


def unfinished() -> dict[str, float]:
    """Return for how many seconds each periodic task has not finished, by the database's clock."""
    with connection.cursor() as cursor:
        cursor.execute(FINISHED, [list(PERIODS)])
        return dict(cursor.fetchall())


def late() -> dict[str, float]:
    """Return those periodic tasks that have not finished for three periods, with the seconds since they did."""
    return {name: seconds for name, seconds in unfinished().items() if seconds > LATE * PERIODS[name]}


class Database(Collector):
    """Metrics that are read from the database at each scrape."""

    def collect(self) -> Iterator[Metric]:
        depth = GaugeMetricFamily("kiln_queue_depth", "Queued jobs", labels=["service_class"])
        age = GaugeMetricFamily("kiln_queue_age_seconds", "Age of the oldest queued job", labels=["service_class"])
        with connection.cursor() as cursor:
            cursor.execute(QUEUES)
            found = {name: (count, seconds) for name, count, seconds in cursor.fetchall()}
            cursor.execute(RUNNING)
            running = cursor.fetchone()[0]
            cursor.execute(TOKENS)
            held = cursor.fetchone()[0]
        for name in ServiceClass.values:
            count, seconds = found.get(name, (0, 0.0))
            depth.add_metric([name], count)
            age.add_metric([name], seconds)
        yield from (depth, age)
        since = GaugeMetricFamily(
            "kiln_periodic_task_age_seconds", "Seconds since a periodic task last finished", labels=["task"]
        )
        period = GaugeMetricFamily(
            "kiln_periodic_task_period_seconds", "Seconds between two turns of a periodic task", labels=["task"]
        )
        for name, seconds in unfinished().items():
            since.add_metric([name], seconds)
            period.add_metric([name], PERIODS[name])
        yield from (since, period)
        yield from deliveries.waiting()
        yield from adapters.waiting()
        yield GaugeMetricFamily("kiln_jobs_running", "Jobs that a worker has claimed", value=running)
        yield GaugeMetricFamily("kiln_tokens_held", "Tokens held for open jobs", value=held / MILLI)
