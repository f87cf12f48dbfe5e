"""The life of a queued job: sole writer of its status, and every change of it moves the hold in the same transaction.

    submission → queued → claim → running → complete → succeeded | failed | canceled
                     ↖ give_back, retry ↙
    cancel: a queued job ends at once; a running one is asked to stop at its next step.

Each verb is a conditional UPDATE whose row count decides: a message delivered twice, late or to two
workers changes nothing. A worker's claim is its name and the attempt's number, so that a worker that lost its
lease cannot write over its successor.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import DatabaseError, connection, transaction
from django.db.models import F
from django.db.models.functions import Greatest, Now
from django.utils import timezone

from billing import amounts
from billing.errors import BillingError
from billing.prices import pricing
from billing.tokens import wallets
from marketplace.jobs import outbox, turns
from marketplace.jobs.errors import LeaseLost, NotCancelable, NotFound
from marketplace.jobs.models import Image, Job, Status

MAX_ATTEMPTS = 3

logger = logging.getLogger(__name__)

HEARTBEAT = """
UPDATE jobs_job SET lease_expires_at = now() + %s, step = GREATEST(jobs_job.step, beat.step)
FROM unnest(%s::uuid[], %s::int[], %s::int[]) AS beat (id, attempt, step)
WHERE jobs_job.id = beat.id AND jobs_job.attempt = beat.attempt AND status = 'running' AND worker = %s
RETURNING jobs_job.id, cancel_requested_at IS NOT NULL
"""


@dataclass(frozen=True, slots=True)
class Result:
    """What came of one picture. `image` is unsaved, and None where the picture failed or was canceled.

    `tier` is the cache that its skipped steps came from, exact or latent; `similarity` that of the prompts.
    """

    outcome: pricing.ImageOutcome
    image: Image | None = None
    tier: str = "none"
    similarity: float | None = None


def claim(job_id: UUID, worker: str, sent: datetime | None = None) -> Job | None:
    """queued → running with a lease, upon the message of a job that was `sent` then: the one whose turn it is.

    One of the same class, or None where there is none to be had.
    """
    values = {"job": job_id, "sent": sent, "worker": worker, "lease": lease()}
    return next(iter(Job.objects.raw(turns.CLAIM, values)), None)


def heartbeat(worker: str, progress: Mapping[UUID, tuple[int, int]]) -> dict[UUID, bool]:
    """Extends the leases of a worker's jobs: `{job: (attempt, step)}` → `{job: cancel requested}`.

    A job that is missing from the answer is no longer this worker's.
    """
    if not progress:
        return {}
    ids, attempts, steps = zip(*((job, attempt, step) for job, (attempt, step) in progress.items()), strict=True)
    values: list[Any] = [lease(), list(ids), list(attempts), list(steps), worker]
    with connection.cursor() as cursor:
        cursor.execute(HEARTBEAT, values)
        return dict(cursor.fetchall())


@transaction.atomic
def complete(
    job: Job, results: Sequence[Result], timings: Mapping[str, float], picture_key: bytes | None = None
) -> int:
    """running → succeeded with the pictures that came out, the hold captured for those delivered.

    By its `picture_key` the same order finds them again. Returns the charge in milli-Tokens. Raises LeaseLost where the
    job is no longer this worker's. With no picture at all, use `fail`.
    """
    offer = pricing.Quote.from_json(job.quote)
    outcomes = [result.outcome for result in results]
    charge = pricing.charge(offer, outcomes)
    _finish(job, Status.SUCCEEDED, charge, _receipt(results, charge), timings=timings, picture_key=picture_key)
    _settle(job.id, charge)
    Image.objects.bulk_create(result.image for result in results if result.image)
    return charge


@transaction.atomic
def stop(job: Job, steps_run: Sequence[int]) -> int:
    """running → canceled, charged for the steps that were done; the charge in milli-Tokens. Raises LeaseLost."""
    charge = pricing.charge_canceled(pricing.Quote.from_json(job.quote), steps_run)
    results = [Result(pricing.ImageOutcome(delivered=False, steps_run=steps)) for steps in steps_run]
    _finish(job, Status.CANCELED, charge, _receipt(results, charge), step=sum(steps_run))
    _settle(job.id, charge)
    return charge


@transaction.atomic
def fail(job: Job, code: str, message: str, *, retry: bool, after: timedelta | None = None) -> None:
    """running → queued for another attempt where that may help and one is left, else → failed, nothing charged.

    The next attempt begins `after` so long at the earliest. Raises LeaseLost.
    """
    if retry and job.attempt < MAX_ATTEMPTS:
        _requeue(job, not_before=timezone.now() + after if after else None)
        return
    _finish(job, Status.FAILED, 0, error=(code, message))
    _settle(job.id, 0)


@transaction.atomic
def give_back(job: Job) -> None:
    """running → queued at once, the attempt not counted: the worker is leaving. Raises LeaseLost."""
    _requeue(job, attempt=F("attempt") - 1)


def expire_leases(limit: int = 100) -> int:
    """Takes jobs back from workers that fell silent, each in a transaction of its own; how many."""
    dead = Job.objects.filter(status=Status.RUNNING, lease_expires_at__lt=Now())
    return sum(_take_back(job_id) for job_id in dead.values_list("id", flat=True)[:limit])


def _take_back(job_id: UUID) -> bool:
    """False where the lease was extended, or somebody else is at it, or it cannot be done now."""
    try:
        with transaction.atomic():
            # locked, so that a late heartbeat cannot revive the lease in between
            locked = Job.objects.select_for_update(skip_locked=True)
            job = locked.filter(id=job_id, status=Status.RUNNING, lease_expires_at__lt=Now()).first()
            if job:
                fail(job, "worker_lost", "The worker stopped answering.", retry=True)
    except (DatabaseError, BillingError):
        logger.exception("job %s cannot be taken back", job_id)
        return False
    return job is not None


def expire_hold(job_id: UUID) -> bool:
    """queued for longer than its hold → failed, nothing charged. A running job keeps its hold until it ends: False."""
    with transaction.atomic():
        expired = Job.objects.filter(id=job_id, status=Status.QUEUED).update(
            status=Status.FAILED,
            finished_at=Now(),
            error_code="expired",
            error_message="The job was not started before its hold expired.",
        )
        if expired:
            wallets.expire(job_id)
    return bool(expired)


def send_again(job_ids: Sequence[UUID]) -> int:
    """Puts queued jobs back into the outbox, because their message was lost or was taken by a leaving worker."""
    return Job.objects.filter(id__in=job_ids, status=Status.QUEUED).update(dispatched_at=None)


def cancel(account_id: UUID, job_id: UUID) -> Job:
    """Ends a queued job for nothing, or asks a running one to stop. Canceling again changes nothing.

    Raises NotFound, or NotCancelable for a job that succeeded or failed.
    """
    with transaction.atomic():
        job = Job.objects.select_for_update().filter(id=job_id, account_id=account_id).first()
        if job is None:
            raise NotFound
        if job.status in {Status.SUCCEEDED, Status.FAILED}:
            raise NotCancelable
        if job.cancel_requested_at is None and not job.is_final:
            job.cancel_requested_at = timezone.now()
            if job.status == Status.QUEUED:
                job.status, job.finished_at = Status.CANCELED, job.cancel_requested_at
                wallets.release(job_id)
            job.save(update_fields=["status", "finished_at", "cancel_requested_at"])
    return job


def lease() -> timedelta:
    return timedelta(seconds=settings.LEASE_SECONDS)


def _finish(
    job: Job,
    status: Status,
    charge: int,
    receipt: dict[str, object] | None = None,
    *,
    step: int | None = None,
    error: tuple[str, str] = ("", ""),
    timings: Mapping[str, float] | None = None,
    picture_key: bytes | None = None,
) -> None:
    """Ends a running job where the lease is this attempt's, else raises LeaseLost."""
    done = Job.objects.filter(id=job.id, status=Status.RUNNING, worker=job.worker, attempt=job.attempt).update(
        status=status,
        captured=charge,
        receipt=receipt,
        step=F("steps") if status == Status.SUCCEEDED else Greatest(F("step"), step or 0),
        error_code=error[0],
        error_message=error[1][:500],
        timings=dict(timings or {}),
        picture_key=picture_key,
        lease_expires_at=None,
        finished_at=Now(),
    )
    if not done:
        raise LeaseLost


def _requeue(job: Job, **changes: object) -> None:
    """Back into the outbox, or, where the customer wants it stopped anyway, canceled for nothing."""
    mine = Job.objects.filter(id=job.id, status=Status.RUNNING, worker=job.worker, attempt=job.attempt)
    if mine.filter(cancel_requested_at=None).update(
        status=Status.QUEUED, lease_expires_at=None, dispatched_at=None, worker="", step=0, **changes
    ):
        transaction.on_commit(outbox.wake)
        return
    _finish(job, Status.CANCELED, 0)
    _settle(job.id, 0)


def _settle(job_id: UUID, charge: int) -> None:
    if charge:
        wallets.capture(job_id, charge)
    else:
        wallets.release(job_id)


def _receipt(results: Sequence[Result], charge: int) -> dict[str, object]:
    return {
        "images": [
            {
                "delivered": result.outcome.delivered,
                "steps_run": result.outcome.steps_run,
                "steps_skipped": result.outcome.steps_skipped,
                "tier": result.tier,
                "similarity": result.similarity,
            }
            for result in results
        ],
        "captured": amounts.format_tokens(charge),
    }
