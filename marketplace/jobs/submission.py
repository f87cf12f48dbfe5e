"""How jobs are born: their rows and their holds in one statement, shared by the requests that arrive together.

`lifecycle` says which jobs; what becomes of them later is its own. A group never waits for a wallet that somebody
else has locked and never fails a job for another's sake: a job that it could not buy is tried again alone. So is one
with a spend cap, behind the lock of its wallet: a statement does not see what was committed while it waited.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Literal
from uuid import UUID

from django.conf import settings
from django.db import DatabaseError, OperationalError, connection, transaction

from billing.prepared import rows
from billing.tokens import wallets
from marketplace.accounts import caps, keys
from marketplace.jobs.grouping import Group

FAR = 100
LARGEST_GROUP = 32

Columns = Mapping[str, Any]
Born = tuple[datetime, int]
"""When the job was born, and its place in the queue, counted no further than FAR."""
Guarded = Literal["guarded"]
"""Nothing was tried: caps have to be looked at first."""

_SENT = (
    "idempotency_key", "operation", "model", "service_class", "order", "metadata", "n", "seed", "quote",
    "steps",
)  # fmt: skip
_BUY = f"""
WITH wanted AS MATERIALIZED (
    SELECT * FROM json_to_recordset(%(jobs)s::json) AS job (
        reference uuid, owner uuid, amount bigint, needed bigint, api_key_id uuid, idempotency_key text,
        order_digest bytea, operation text, model text, service_class text, "order" jsonb, metadata jsonb,
        n smallint, seed bigint, quote jsonb, steps int
    )
),
{{payers}},
{keys.LIVE_CTE},
bought AS (
    INSERT INTO jobs_job (
        id, account_id, api_key_id, idempotency_key, order_digest, operation, model, service_class, "order",
        metadata, n, seed, quote, quoted, captured, status, step, steps, attempt, worker,
        error_code, error_message, timings
    )
    SELECT
        reference, owner, api_key_id, idempotency_key, order_digest, operation, model, service_class, "order",
        metadata, n, seed, quote, amount, 0, 'queued', 0, steps, 0, '', '', '', '{{{{}}}}'
    FROM wanted JOIN payer USING (owner) LEFT JOIN live_key USING (api_key_id)
    WHERE needed <= available AND CASE WHEN %(guarded)s THEN api_key_id IS NULL OR is_live
                                       ELSE is_live AND NOT is_capped END
    ON CONFLICT (account_id, idempotency_key) WHERE idempotency_key IS NOT NULL DO NOTHING
    RETURNING id AS reference, account_id AS owner, api_key_id AS spender, quoted AS amount, service_class, created_at
),
{wallets.HOLDS_CTE},
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
SELECT reference, NULL, NULL FROM wanted LEFT JOIN live_key USING (api_key_id)
WHERE NOT %(guarded)s AND (api_key_id IS NULL OR is_capped)
"""
_TOGETHER = _BUY.format(payers=wallets.FREE_PAYERS_CTE)
_ALONE = _BUY.format(payers=wallets.PAYERS_CTE)


def buy(job: Columns) -> Born:
    """Holds `quoted` and writes the job, both or neither; `job` has the columns of a new job's row.

    Raises wallets' InsufficientTokens or NoWallet, or SpendCapReached; also, so that somebody has to look, where its
    API key does not work any more or its idempotency key has bought before.
    """
    # A transaction around it must not decide over other requests' jobs.
    born = None if connection.in_atomic_block else _GROUP.join(job)
    if born is None:
        born = _run(_ALONE, [job])[0]
    if born == "guarded":
        born = _buy_guarded(job)
    if born is None:
        raise wallets.refusal(job["account_id"], job["quoted"])
    return born


@transaction.atomic
def _buy_guarded(job: Columns) -> Born | None:
    """Looks at the caps while nobody else can hold or be charged, in statements that begin behind the lock."""
    wallets.lock(job["account_id"])
    caps.check(job["account_id"], job["api_key_id"], job["quoted"])
    born = _run(_ALONE, [job], guarded=True)[0]
    return None if born == "guarded" else born


def _buy_together(jobs: Sequence[Columns]) -> list[Born | Guarded | None]:
    """For each job when it was born; None where it was not, and has to be tried alone."""
    try:
        return _run(_TOGETHER, jobs)
    except OperationalError:  # the server may be away, and may have committed before it went
        raise
    except DatabaseError:  # nothing was written; alone, only the job at fault will fail
        return [None] * len(jobs)


_GROUP = Group(_buy_together, LARGEST_GROUP)


def _run(statement: str, jobs: Sequence[Columns], guarded: bool = False) -> list[Born | Guarded | None]:
    """For each job when it was born, unless it was not; `guarded` where the caps were looked at."""
    needed: Counter[UUID] = Counter()
    documents = []
    for job in jobs:
        needed[job["account_id"]] += job["quoted"]
        documents.append(_document(job, needed[job["account_id"]]))
    expires_in = timedelta(seconds=settings.HOLD_SECONDS)
    found = rows(statement, {"jobs": json.dumps(documents), "expires_in": expires_in, "guarded": guarded})
    born = {job_id: (created_at, ahead) for job_id, created_at, ahead in found}
    place: Counter[str] = Counter()
    answers: list[Born | Guarded | None] = []
    for job in jobs:
        if job["id"] in born:
            created_at, ahead = born[job["id"]]
            if created_at is None:
                answers.append("guarded")
                continue
            place[job["service_class"]] += 1
            answers.append((created_at, min(ahead + place[job["service_class"]], FAR)))
        else:
            answers.append(None)
    return answers


def _document(job: Columns, needed: int) -> dict[str, Any]:
    """The job as `wanted` reads it; `needed` is what its account pays in this group so far, with it."""
    return {
        **{name: job[name] for name in _SENT},
        "reference": str(job["id"]),
        "owner": str(job["account_id"]),
        "api_key_id": job["api_key_id"] and str(job["api_key_id"]),
        "amount": job["quoted"],
        "needed": needed,
        "order_digest": f"\\x{job['order_digest'].hex()}",
    }
