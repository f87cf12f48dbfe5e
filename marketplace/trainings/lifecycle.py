"""The life of a training. Only this module changes its status, and it moves the hold in the same transaction.

    submission → queued → claim → running → complete → succeeded | failed | canceled
                     ↖ give_back, retry ↙
    cancel: a queued one ends at once; a running one is asked to stop, and its best adapter so far is delivered.

As for jobs, each verb is a conditional UPDATE whose row count decides. Trainers ask the database for the next one
themselves: trainings are few and long, so no message needs to wake them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import connection, transaction
from django.db.models import F
from django.db.models.functions import Greatest, Now

from billing.tokens import holds, wallets
from lora import training_prices
from lora.models import Version
from marketplace.jobs.models import Status
from marketplace.trainings.errors import LeaseLost, NotCancelable, NotFound
from marketplace.trainings.models import Training
from marketplace.webhooks import events

# Attempts in a row that came no further.
MOST_FAILURES = 5

logger = logging.getLogger(__name__)

# The place in the queue: whoever has fewer running first, then by age, to which a class adds.
WAITED = """now() - created_at + CASE service_class
    WHEN 'interactive' THEN interval '2 hours' WHEN 'standard' THEN interval '1 hour' ELSE interval '0' END"""

_CLAIM = f"""
UPDATE trainings_training SET status = 'running', worker = %(worker)s, attempt = attempt + 1, not_before = NULL,
       lease_expires_at = now() + %(lease)s, started_at = coalesce(started_at, now())
WHERE id = (
    SELECT id FROM trainings_training AS training
    WHERE status = 'queued' AND coalesce(not_before <= now(), true)
    ORDER BY (SELECT count(*) FROM trainings_training AS other
              WHERE other.account_id = training.account_id AND other.status = 'running'),
             {WAITED} DESC, id
    LIMIT 1 FOR UPDATE SKIP LOCKED
)
RETURNING *
"""

_POSITION = f"""
SELECT count(*) FROM trainings_training WHERE status = 'queued' AND ({WAITED}, id) >= (
    SELECT {WAITED}, id FROM trainings_training WHERE id = %s
)
"""


def claim(worker: str) -> Training | None:
    """Claim the training whose turn it is (queued → running with a lease); None if none waits."""
    values = {"worker": worker, "lease": lease()}
    return next(iter(Training.objects.raw(_CLAIM, values)), None)


def position(training: Training) -> int | None:
    """Return the place in the queue, counted from 1; None if it is not queued."""
    if training.status != Status.QUEUED:
        return None
    with connection.cursor() as cursor:
        cursor.execute(_POSITION, [training.id])
        row = cursor.fetchone()
    return max(1, int(row[0]))


def heartbeat(training: Training, **progress: Any) -> bool:
    """Extend the lease, note progress (step, loss, seconds_left), and return whether a cancel was requested.

    Raises LeaseLost.
    """
    _held(training).update(lease_expires_at=Now() + lease(), **progress) or _lost()
    return Training.objects.filter(id=training.id, cancel_requested_at__isnull=False).exists()


def checkpointed(training: Training, path: str) -> str:
    """Note that a new checkpoint is stored, from which another trainer can go on; return the path of the one before.

    Raises LeaseLost.
    """
    with transaction.atomic():
        before = _held(training).select_for_update().values_list("checkpoint", flat=True).first()
        _held(training).update(checkpoint=path, failures=0) or _lost()
    return before or ""


def evaluated(training: Training, evaluation: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Add what was measured after a step, in the place of an earlier attempt's; return all. Raises LeaseLost."""
    with transaction.atomic():
        row = _held(training).select_for_update().first() or _lost()
        kept = [each for each in row.evaluations if each["step"] != evaluation["step"]]
        found = sorted([*kept, dict(evaluation)], key=lambda each: int(each["step"]))
        _held(training).update(evaluations=found, step=Greatest("step", int(evaluation["step"])))
    return found


def keep_adapters(training: Training, paths: Iterable[str]) -> None:
    """Note which of the evaluations' adapters are still kept. Raises LeaseLost."""
    kept = set(paths)
    with transaction.atomic():
        row = _held(training).select_for_update().first() or _lost()
        found = [{**each, "adapter": each["adapter"] if each["adapter"] in kept else ""} for each in row.evaluations]
        _held(training).update(evaluations=found)


@transaction.atomic
def note_version(training: Training, step: int, number: int) -> None:
    """Note that the adapter of a step is a version, whose number this is. Raises LeaseLost."""
    row = _held(training).select_for_update().first() or _lost()
    found = [{**each, "version": number} if each["step"] == step else each for each in row.evaluations]
    _held(training).update(evaluations=found)


@transaction.atomic
def complete(training: Training, version: Version) -> int:
    """End a training with its version (running → succeeded) and charge it; return the charge in milli-Tokens.

    Raises LeaseLost.
    """
    _finish(training, Status.SUCCEEDED, training.quoted, step=F("steps"), version=version)
    return training.quoted


@transaction.atomic
def stop(training: Training, step: int, version: Version | None) -> int:
    """End a training that was canceled while it ran, and charge the steps done; return the charge. Raises LeaseLost."""
    charge = training_prices.charge(training_prices.Quote.from_json(training.quote), step)
    _finish(training, Status.CANCELED, charge, step=step, version=version)
    return charge


@transaction.atomic
def fail(training: Training, code: str, message: str, *, retry: bool, after: timedelta | None = None) -> None:
    """Queue a running training again if `retry` is set and it may be tried again, else end it as failed, uncharged.

    Raises LeaseLost.
    """
    if retry and training.failures + 1 < MOST_FAILURES:
        not_before = Now() + after if after else None
        _requeue(training, failures=F("failures") + 1, not_before=not_before)
        return
    _finish(training, Status.FAILED, 0, error_code=code, error_message=message[:500])


@transaction.atomic
def give_back(training: Training) -> None:
    """Queue a leaving trainer's training again. Raises LeaseLost."""
    _requeue(training)


def cancel(account_id: UUID, training_id: UUID) -> Training:
    """End a queued training free of charge, or ask a running one to stop. Canceling again changes nothing.

    Raises NotFound, or NotCancelable if it has succeeded or failed.
    """
    with transaction.atomic():
        found = Training.objects.select_for_update().filter(id=training_id, account_id=account_id).first()
        if found is None:
            raise NotFound
        if found.status in {Status.SUCCEEDED, Status.FAILED}:
            raise NotCancelable
        if found.cancel_requested_at is None and not found.is_final:
            Training.objects.filter(id=found.id).update(cancel_requested_at=Now())
            if found.status == Status.QUEUED:
                _end_queued(found, Status.CANCELED)
            found.refresh_from_db()
    return found


def expire_leases() -> int:
    """Take trainings back from trainers that fell silent, each in its own transaction; return how many."""
    dead = Training.objects.filter(status=Status.RUNNING, lease_expires_at__lt=Now())
    return _each(dead.values_list("id", flat=True), _take_back)


def expire_holds() -> int:
    """Fail the trainings that were queued for longer than their holds; return how many."""
    queued = set(Training.objects.filter(status=Status.QUEUED).values_list("id", flat=True))
    return _each([each for each in holds.due() if each in queued] if queued else [], _expire_hold)


def lease() -> timedelta:
    return timedelta(seconds=settings.LEASE_SECONDS)


@transaction.atomic
def _take_back(training_id: UUID) -> bool:
    """Take a training back; return False if its lease was extended, or somebody else has it locked."""
    locked = Training.objects.select_for_update(skip_locked=True)
    found = locked.filter(id=training_id, status=Status.RUNNING, lease_expires_at__lt=Now()).first()
    if found:
        fail(found, "worker_lost", "The trainer stopped answering.", retry=True)
    return found is not None


@transaction.atomic
def _expire_hold(training_id: UUID) -> bool:
    found = Training.objects.select_for_update().filter(id=training_id, status=Status.QUEUED).first()
    if found:
        error = {"error_code": "expired", "error_message": "The training was not started before its hold expired."}
        _end_queued(found, Status.FAILED, **error)
    return found is not None


def _each(found: Iterable[UUID], repair: Callable[[UUID], bool]) -> int:
    """Return how many were repaired; a failure is logged and does not stop the others."""
    done = 0
    for training_id in found:
        try:
            done += repair(training_id)
        except Exception:
            logger.exception("training %s", training_id)
    return done


def _held(training: Training) -> Any:
    """Return the row, if the lease is still this attempt's."""
    return Training.objects.filter(
        id=training.id, status=Status.RUNNING, worker=training.worker, attempt=training.attempt
    )


def _lost() -> Any:
    raise LeaseLost


def _requeue(training: Training, **changes: Any) -> None:
    """Queue a running training again, or end it if its cancel was requested meanwhile. Raises LeaseLost."""
    row = _held(training).select_for_update().first() or _lost()
    if row.cancel_requested_at:
        stop(training, row.step, None)
        return
    _held(training).update(status=Status.QUEUED, worker="", lease_expires_at=None, seconds_left=None, **changes)


def _finish(training: Training, status: Status, charge: int, **facts: Any) -> None:
    ended = {"status": status, "captured": charge, "lease_expires_at": None, "seconds_left": None, "finished_at": Now()}
    _held(training).update(**ended, **facts) or _lost()
    if charge:
        wallets.capture(training.id, charge)
    else:
        wallets.release(training.id)
    _tell(training, status)


def _end_queued(training: Training, status: Status, **facts: Any) -> None:
    Training.objects.filter(id=training.id).update(status=status, finished_at=Now(), **facts)
    (wallets.expire if status == Status.FAILED else wallets.release)(training.id)
    _tell(training, status)


def _tell(training: Training, status: Status) -> None:
    data = {"id": str(training.id), "adapter": str(training.adapter_id), "status": status.value}
    events.tell(training.account_id, f"training.{status.value}", data=data)
