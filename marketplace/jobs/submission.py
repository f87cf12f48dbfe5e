"""Orders become queued jobs: priced, held and written in one statement, shared by requests that arrive together.

A group never waits for a locked wallet, and no job in it fails because of another: a job that it could not buy is tried
again alone. So is one with a spend cap, once its wallet is locked, since a statement does not see what was committed
while it waited for a lock. Not for what becomes of a job later: that is `lifecycle`.
"""

from __future__ import annotations

import json
import secrets
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal
from uuid import UUID

from django.conf import settings
from django.db import DatabaseError, OperationalError, connection, transaction
from django.db.models import NOT_PROVIDED
from django.db.models.base import ModelState
from psycopg import sql

from billing import clock
from billing.errors import BillingError
from billing.prepared import rows
from billing.prices import price_lists, pricing
from billing.prices.pricing import AdapterTerms
from billing.tokens import holds, lots, wallets
from marketplace.accounts import caps, keys, tiers
from marketplace.files.errors import QuotaReached
from marketplace.identifiers import first_uuid7, uuid7
from marketplace.jobs import backlog, inputs, outbox
from marketplace.jobs.errors import CostAboveMaximum, KeyReused, QueueFull
from marketplace.jobs.grouping import Group
from marketplace.jobs.models import SEEDS, Bought, Job, Status
from marketplace.jobs.orders import JobOrder
from marketplace.jobs.turns import FAR

LARGEST_GROUP = 32

Place = tuple[datetime, int]
"""The time at which the job was bought, and its place in the queue, counted no further than FAR."""
Guarded = Literal["guarded"]
"""The answer for a job that was not tried because its caps must be checked first."""

_NAMES = {field.name for field in Bought._meta.local_fields}
_BOUGHT = {field.attname: field for field in Job._meta.concrete_fields if field.name in _NAMES}
_QUEUED = Job(status=Status.QUEUED)
"""A job of which nothing is known yet."""


def _statement(payers: str) -> str:
    """Return SQL that buys those of `jobs` (the columns of Bought) that the wallets of the CTE `payers` can pay."""
    types = ", ".join(f'"{name}" {field.db_type(connection)}' for name, field in _BOUGHT.items())
    row = _new_row()
    return f"""
WITH wanted AS MATERIALIZED (
    SELECT *, account_id AS owner FROM json_to_recordset(%(jobs)s::json) AS job ({types}, needed bigint)
),
{payers},
{keys.LIVE_CTE},
bought AS (
    INSERT INTO jobs_job ({", ".join(row)})
    SELECT {", ".join(row.values())}
    FROM wanted JOIN payer USING (owner) LEFT JOIN live_key USING (api_key_id)
    WHERE needed <= available AND CASE WHEN %(guarded)s THEN api_key_id IS NULL OR is_live
                                       ELSE is_live AND NOT is_capped END
    ON CONFLICT (account_id, idempotency_key) WHERE idempotency_key IS NOT NULL DO NOTHING
    RETURNING id AS reference, account_id AS owner, api_key_id AS spender, quoted AS amount, service_class, created_at
),
{holds.HOLDS_CTE},
queue AS MATERIALIZED (
    SELECT service_class, (
        SELECT count(*) FROM (
            SELECT FROM jobs_job WHERE status = 'queued' AND service_class = class.service_class LIMIT {FAR}
        ) AS counted
    ) AS ahead
    FROM (SELECT DISTINCT service_class FROM wanted) AS class
)
SELECT reference, created_at, ahead FROM bought JOIN queue USING (service_class)
UNION ALL
SELECT id, NULL, NULL FROM wanted LEFT JOIN live_key USING (api_key_id)
WHERE NOT %(guarded)s AND (api_key_id IS NULL OR is_capped)
"""


def _new_row() -> dict[str, str]:
    """Return the value of each column of a new row, as SQL."""
    row = {}
    for field in Job._meta.concrete_fields:
        name = f'"{field.attname}"'
        if field.attname in _BOUGHT:
            row[name] = name
        elif field.db_default is NOT_PROVIDED:
            value = field.get_db_prep_save(getattr(_QUEUED, field.attname), connection)
            row[name] = sql.Literal(value).as_string()
    return row


_TOGETHER = _statement(holds.FREE_PAYERS_CTE)
_ALONE = _statement(holds.PAYERS_CTE)


@dataclass(frozen=True, slots=True)
class Submitted:
    job: Job
    replayed: bool
    """True if the idempotency key had already bought this job."""
    queue_position: int | None = None
    """The result of `turns.queue_position`; None for a replay, which may have left the queue."""


def quote(order: JobOrder) -> pricing.Quote:
    """Return the price of an order. Raises CostAboveMaximum if it is above the customer's own limit."""
    offer = pricing.quote(order, price_lists.current())
    if order.max_cost is not None and offer.total > order.max_cost:
        raise CostAboveMaximum(offer.total, order.max_cost)
    return offer


def submit(
    account_id: UUID, order: JobOrder, *, key_id: UUID | None = None, idempotency_key: str | None = None
) -> Submitted:
    """Hold the price and queue the job, both or neither.

    Raises wallets' InsufficientTokens, CostAboveMaximum, QueueFull if the account's tier allows no more queued jobs,
    QuotaReached if there is no room for the pictures that the order brings, `keys.Revoked` if the API key no longer
    works, and KeyReused if the idempotency key came with another order before.
    """
    try:
        backlog.check(account_id, tiers.of(account_id).queued_jobs)
        job = _new(account_id, order, key_id, idempotency_key)
        position = _buy(job)
    except (BillingError, CostAboveMaximum, QueueFull, QuotaReached):
        if key_id:
            keys.confirm(key_id)
        if idempotency_key and (earlier := _replay(account_id, order, idempotency_key)):
            return earlier
        raise
    outbox.wake()
    return Submitted(job, replayed=False, queue_position=position)


def bought_terms(account_id: UUID, idempotency_key: str) -> Sequence[AdapterTerms]:
    """Return the terms of the adapters of the job that this key bought; none if it bought nothing."""
    found = Job.objects.filter(account_id=account_id, idempotency_key=idempotency_key)
    job = found.first()
    return pricing.Quote.from_json(job.quote).adapters if job else ()


def recent(account_id: UUID, order: JobOrder, within: timedelta) -> Job | None:
    """Return the account's newest job of this order that is not older; None if there is none."""
    made = Job.objects.filter(account_id=account_id, id__gte=first_uuid7(clock.now() - within))
    return made.filter(order_digest=order.digest()).order_by("-id").first()


def _new(account_id: UUID, order: JobOrder, key_id: UUID | None, idempotency_key: str | None) -> Job:
    """Return the order's row, not yet written, with its quote."""
    offer = quote(order)
    if order.images:
        order = inputs.keep(account_id, order)
    return _queued(
        id=uuid7(),
        account_id=account_id,
        api_key_id=key_id,
        idempotency_key=idempotency_key or None,
        order_digest=order.digest(),
        operation=order.operation,
        model=order.model,
        service_class=order.service_class,
        order=order.picture(),
        metadata=order.metadata,
        n=order.n,
        seed=secrets.randbelow(SEEDS) if order.seed is None else order.seed,
        quote=offer.as_json(),
        quoted=offer.total,
        steps=order.n * order.steps_due,
        timings={},
    )


def _queued(**known: Any) -> Job:
    """Return a job as if it had been read, as Django restores one that was pickled.

    Its constructor goes through all columns each time.
    """
    job = Job.__new__(Job)
    vars(job).update(vars(_QUEUED) | known | {"_state": ModelState()})
    job._state.db, job._state.adding = connection.alias, False
    return job


def _buy(job: Job) -> int:
    """Hold the quoted amount and write the job's row, both or neither; return its place in the queue.

    Raises `wallets.refusal` or SpendCapReached. The refusal is also raised if the API key no longer works or the
    idempotency key has bought before, which the caller must find out.
    """
    # Within a transaction a job is bought alone: its rollback must not undo other requests' jobs.
    bought = None if connection.in_atomic_block else _GROUP.join(job)
    if bought is None:
        bought = _run(_ALONE, [job])[0]
    if bought is None and lots.expire_of(job.account_id):
        bought = _run(_ALONE, [job])[0]
    if bought == "guarded":
        bought = _buy_guarded(job)
    if bought is None:
        raise wallets.refusal(job.account_id, job.quoted)
    job.created_at, position = bought
    return position


@transaction.atomic
def _buy_guarded(job: Job) -> Place | None:
    """Check the caps while nobody else can hold or charge, then buy in a statement that begins after the lock.

    Expired Tokens are taken before, since nothing is held while there are some.
    """
    caps.check(job.account_id, job.api_key_id, job.quoted)
    lots.expire_of(job.account_id)
    bought = _run(_ALONE, [job], guarded=True)[0]
    return None if bought == "guarded" else bought


def _buy_together(jobs: Sequence[Job]) -> list[Place | Guarded | None]:
    """Buy a group of jobs; return None for each that was not bought and must be tried alone."""
    try:
        return _run(_TOGETHER, jobs)
    except OperationalError:  # the server may be down, and may have committed before
        raise
    except DatabaseError:  # nothing was written; when tried alone, only the job at fault will fail
        return [None] * len(jobs)


_GROUP = Group(_buy_together, LARGEST_GROUP)


def _run(statement: str, jobs: Sequence[Job], guarded: bool = False) -> list[Place | Guarded | None]:
    """Return each job's place, None if it was not bought. `guarded` says that the caps have been checked."""
    needed: Counter[UUID] = Counter()
    documents = []
    for job in jobs:
        needed[job.account_id] += job.quoted
        documents.append(_document(job, needed[job.account_id]))
    expires_in = timedelta(seconds=settings.HOLD_SECONDS)
    found = rows(statement, {"jobs": _as_json(documents), "expires_in": expires_in, "guarded": guarded})
    bought = {job_id: (created_at, ahead) for job_id, created_at, ahead in found}
    place: Counter[str] = Counter()
    answers: list[Place | Guarded | None] = []
    for job in jobs:
        if job.id in bought:
            created_at, ahead = bought[job.id]
            if created_at is None:
                answers.append("guarded")
                continue
            place[job.service_class] += 1
            answers.append((created_at, min(ahead + place[job.service_class], FAR)))
        else:
            answers.append(None)
    return answers


def _document(job: Job, needed: int) -> dict[str, Any]:
    """Return the job as `wanted` reads it; `needed` (milli-Tokens) is what its account pays in this group up to it."""
    values = job.__dict__
    return {name: values[name] for name in _BOUGHT} | {"needed": needed}


def _text(value: UUID | bytes) -> str:
    """Return a value that JSON has no form for, as PostgreSQL reads it."""
    return f"\\x{value.hex()}" if isinstance(value, bytes) else str(value)


_as_json = json.JSONEncoder(default=_text).encode


def _replay(account_id: UUID, order: JobOrder, idempotency_key: str) -> Submitted | None:
    job = Job.objects.filter(account_id=account_id, idempotency_key=idempotency_key).first()
    if job is None:
        return None
    if job.forgotten_at is None and bytes(job.order_digest) != order.digest():
        raise KeyReused
    return Submitted(job, replayed=True)
