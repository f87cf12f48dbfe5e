"""The life of a queued job. Only this module changes its status, and it moves the hold in the same transaction.

    submission → queued → claim → running → complete → succeeded | failed | canceled
                     ↖ give_back, retry ↙
    cancel: a queued job ends at once; a running one is asked to stop at its next step, and delivers what is finished.

Each verb is a conditional UPDATE whose row count decides, so a message delivered twice, late or to two workers
changes nothing. A worker's claim is its name and the attempt's number, so a worker that lost its lease cannot
overwrite its successor's work.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

from django.conf import settings
from django.db import connection, transaction
from django.db.models import F
from django.db.models.functions import Greatest, Now

from billing import amounts
from billing.prices import pricing
from billing.tokens import holds, wallets
from lora import opinions
from marketplace.jobs import news, outbox, turns
from marketplace.jobs.errors import LeaseLost, NotCancelable, NotFound
from marketplace.jobs.models import Image, Job, Status
from marketplace.webhooks import events

MAX_ATTEMPTS = 3
LOOK_AGAIN_SECONDS = 0.0, 0.005, 0.025, 0.1
"""The pauses before each look for a job whose turn it is."""

logger = logging.getLogger(__name__)

HEARTBEAT = """
UPDATE jobs_job SET lease_expires_at = now() + %s, step = GREATEST(jobs_job.step, beat.step),
                    cancel_cost = beat.cancel_cost
FROM unnest(%s::uuid[], %s::int[], %s::int[], %s::bigint[]) AS beat (id, attempt, step, cancel_cost)
WHERE jobs_job.id = beat.id AND jobs_job.attempt = beat.attempt AND status = 'running' AND worker = %s
RETURNING jobs_job.id, cancel_requested_at IS NOT NULL
"""


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one picture. `image` is unsaved, and None if the picture failed or was canceled.

    `tier` is the cache that its skipped steps came from, exact or latent; `similarity` is that of the prompts.
    """

    outcome: pricing.ImageOutcome
    image: Image | None = None
    tier: str = "none"
    similarity: float | None = None


class Progress(NamedTuple):
    """How far an attempt is: steps done of all pictures together, and what a cancel would cost, in milli-Tokens."""

    attempt: int
    step: int
    cancel_cost: int


def claim(job_id: UUID, worker: str, sent: datetime | None = None) -> Job | None:
    """Claim a job (queued → running with a lease) upon the message of `job_id`, `sent` at that time.

    Return the job of the same service class whose turn it is, or None if there is none.

    Whoever finds none while jobs wait looks again: a statement that waited for its job's dispatcher sees the other
    jobs as they were before, and one passes over jobs that others have locked for a moment. A message that served
    nobody would leave a job waiting for the sweeper.
    """
    values = {"job": job_id, "sent": sent, "worker": worker, "lease": lease()}
    for pause in LOOK_AGAIN_SECONDS:
        time.sleep(pause)
        if job := next(iter(Job.objects.raw(turns.CLAIM, values)), None):
            news.changed(job.id)
            return job
        if not turns.somebody_waits(job_id):
            break
    return None


def heartbeat(worker: str, progress: Mapping[UUID, Progress]) -> dict[UUID, bool]:
    """Extend the leases of a worker's jobs and note their progress; return for each whether a cancel was requested.

    A job that is missing from the answer is no longer this worker's.
    """
    if not progress:
        return {}
    values: list[Any] = [lease(), list(progress), *map(list, zip(*progress.values(), strict=True)), worker]
    with connection.cursor() as cursor:
        cursor.execute(HEARTBEAT, values)
        return dict(cursor.fetchall())


@transaction.atomic
def complete(
    job: Job, results: Sequence[Result], timings: Mapping[str, float], picture_key: bytes | None = None
) -> int:
    """End a job with its pictures (running → succeeded) and capture the hold for those delivered.

    The same order finds them again by `picture_key`. Return the charge in milli-Tokens. Raises LeaseLost if the job
    is no longer this worker's. If there is no picture at all, use `fail`.
    """
    charge = pricing.charge(pricing.Quote.from_json(job.quote), [result.outcome for result in results])
    _deliver(job, Status.SUCCEEDED, charge, results, timings=timings, picture_key=picture_key)
    return charge


@transaction.atomic
def stop(job: Job, results: Sequence[Result], timings: Mapping[str, float]) -> int:
    """Cancel a running job: deliver the pictures that are finished and charge for these and the others' steps done.

    Return the charge in milli-Tokens. Raises LeaseLost as `complete` does.
    """
    outcomes = [result.outcome for result in results]
    charge = pricing.charge_canceled(pricing.Quote.from_json(job.quote), outcomes)
    step = sum(outcome.steps_run + outcome.steps_skipped for outcome in outcomes)
    _deliver(job, Status.CANCELED, charge, results, timings=timings, step=step)
    return charge


@transaction.atomic
def fail(job: Job, code: str, message: str, *, retry: bool, after: timedelta | None = None) -> None:
    """Queue a running job for another attempt if `retry` is set and one is left, else end it as failed, uncharged.

    The next attempt begins `after` this time at the earliest. Raises LeaseLost if the job is no longer this worker's.
    """
    if retry and job.attempt < MAX_ATTEMPTS:
        _requeue(job, not_before=Now() + after if after else None)
        return
    _finish(job, Status.FAILED, 0, error=(code, message))
    _settle(job.id, 0)


@transaction.atomic
def give_back(job: Job) -> None:
    """Queue a leaving worker's job again without counting the attempt. Raises LeaseLost as `fail` does."""
    _requeue(job, attempt=F("attempt") - 1)


def expire_leases() -> int:
    """Take jobs back from workers that fell silent, each in its own transaction; return how many."""
    dead = Job.objects.filter(status=Status.RUNNING, lease_expires_at__lt=Now())
    return _each(dead.values_list("id", flat=True), _take_back)


@transaction.atomic
def _take_back(job_id: UUID) -> bool:
    """Take a job back; return False if its lease was extended, or somebody else has it locked."""
    # locked, so that a late heartbeat cannot revive the lease in between
    locked = Job.objects.select_for_update(skip_locked=True)
    job = locked.filter(id=job_id, status=Status.RUNNING, lease_expires_at__lt=Now()).first()
    if job:
        fail(job, "worker_lost", "The worker stopped answering.", retry=True)
    return job is not None


def expire_holds() -> int:
    """Fail the jobs that were queued for longer than their holds, each in its own transaction; return how many."""
    return _each(holds.due(), _expire_hold)


@transaction.atomic
def _expire_hold(job_id: UUID) -> bool:
    """Fail a job free of charge; return False if it is no longer queued."""
    expired = Job.objects.filter(id=job_id, status=Status.QUEUED).update(
        status=Status.FAILED,
        finished_at=Now(),
        error_code="expired",
        error_message="The job was not started before its hold expired.",
    )
    if expired:
        wallets.expire(job_id)
        news.changed(job_id)
        _tell(Job.objects.get(id=job_id), Status.FAILED)
    return bool(expired)


def _each(job_ids: Iterable[UUID], repair: Callable[[UUID], bool]) -> int:
    """Return how many jobs were repaired; a failure is logged and does not stop the others."""
    done = 0
    for job_id in job_ids:
        try:
            done += repair(job_id)
        except Exception:
            logger.exception("job %s", job_id)
    return done


def send_again(job_ids: Sequence[UUID]) -> int:
    """Put queued jobs back into the outbox, since a message was lost or taken by a leaving worker; return how many."""
    return Job.objects.filter(id__in=job_ids, status=Status.QUEUED).update(dispatched_at=None)


def cancel(account_id: UUID, job_id: UUID) -> Job:
    """End a queued job free of charge, or ask a running one to stop. Canceling again changes nothing.

    Raises NotFound, or NotCancelable if the job has succeeded or failed.
    """
    with transaction.atomic():
        job = Job.objects.select_for_update().filter(id=job_id, account_id=account_id).first()
        if job is None:
            raise NotFound
        if job.status in {Status.SUCCEEDED, Status.FAILED}:
            raise NotCancelable
        if job.cancel_requested_at is None and not job.is_final:
            changes: dict[str, Any] = {"cancel_requested_at": Now()}
            if job.status == Status.QUEUED:
                changes |= {"status": Status.CANCELED, "finished_at": Now()}
                wallets.release(job_id)
                _tell(job, Status.CANCELED)
            Job.objects.filter(id=job_id).update(**changes)
            job.refresh_from_db()
            news.changed(job_id)
    return job


def lease() -> timedelta:
    return timedelta(seconds=settings.LEASE_SECONDS)


def _deliver(job: Job, status: Status, charge: int, results: Sequence[Result], **terms: Any) -> None:
    _finish(job, status, charge, _receipt(results, charge), **terms)
    quoted = pricing.Quote.from_json(job.quote)
    _settle(job.id, charge, quoted)
    if charge and quoted.adapters:
        opinions.count(job.account_id, {UUID(each.adapter) for each in quoted.adapters})
    Image.objects.bulk_create(result.image for result in results if result.image)


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
    """End a running job. Raises LeaseLost if the lease is not this attempt's."""
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
    news.changed(job.id)
    _tell(job, status)


def _tell(job: Job, status: Status) -> None:
    """Have its account told that a job has ended, in the transaction in which it does."""
    events.tell(job.account_id, f"job.{status}", job=job.id, url=job.order.get("webhook_url"))


def _requeue(job: Job, **changes: object) -> None:
    """Put a running job back into the outbox, or cancel it free of charge if the customer asked for that."""
    mine = Job.objects.filter(id=job.id, status=Status.RUNNING, worker=job.worker, attempt=job.attempt)
    if mine.filter(cancel_requested_at=None).update(
        status=Status.QUEUED, lease_expires_at=None, dispatched_at=None, worker="", step=0, cancel_cost=0, **changes
    ):
        transaction.on_commit(outbox.wake)
        news.changed(job.id)
        return
    _finish(job, Status.CANCELED, 0)
    _settle(job.id, 0)


def _settle(job_id: UUID, charge: int, quoted: pricing.Quote | None = None) -> None:
    """Capture the charge, of which the makers of the adapters in the quote get their shares, or release the hold."""
    if charge:
        wallets.capture(job_id, charge, _shares(quoted, charge) if quoted and quoted.adapters else None)
    else:
        wallets.release(job_id)


def _shares(quoted: pricing.Quote, charge: int) -> list[wallets.Share]:
    split = pricing.shares(quoted, charge)
    made = [wallets.Share(UUID(maker), amount) for maker, amount in split.items()]
    rest = charge - sum(split.values())
    # The platform's part is drawn first: granted Tokens, which are spent first, are no maker's loss as far as it goes.
    return [wallets.Share("platform", rest), *made] if rest else made


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
