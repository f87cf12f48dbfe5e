"""The turns of the waiting jobs of a service class: start-time fair queueing between accounts.

When a job is sent to the workers, it is tagged with the virtual time at which its account's earlier jobs end, in
milli-Tokens of their quotes; the class's virtual time is the lowest tag that waits (Goyal, Vin and Cheng 1996). A claim
takes the job with the lowest tag. So one account's two hundred jobs do not delay another's single job, and a class in
which nothing waits keeps no state.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from django.db import connection
from django.db.models import Q

from marketplace.jobs.models import Job, Status

FAR = 100
"""Places in the queue are counted no further."""

_TIMES = """
SELECT class, coalesce((
    SELECT tag FROM jobs_job WHERE status = 'queued' AND service_class = class AND dispatched_at IS NOT NULL
    ORDER BY tag LIMIT 1
), 0)
FROM unnest(%s::text[]) AS class
"""
_ENDS = """
SELECT account, class, (
    SELECT tag + quoted FROM jobs_job
    WHERE status = 'queued' AND dispatched_at IS NOT NULL AND account_id = account AND service_class = class
    ORDER BY tag DESC LIMIT 1
)
FROM unnest(%s::uuid[], %s::text[]) AS flow (account, class)
"""
_SENT = """
UPDATE jobs_job SET dispatched_at = %s, tag = given.tag FROM unnest(%s::uuid[], %s::bigint[]) AS given (id, tag)
WHERE jobs_job.id = given.id
"""

# OFFSET 0 makes it a look at this job's hold, instead of a join with all holds.
_HELD = """EXISTS (
        SELECT FROM billing_hold WHERE reference = jobs_job.id
        AND billing_hold.expires_at > statement_timestamp() OFFSET 0
    )"""

# Parameters: job and sent (of the message), worker and lease. A job whose hold has run out is never begun, even if
# nobody has expired it yet. The job whose turn it is may not be the one that the message names. Then a waiting job
# dispatched at the moment `sent` takes over the claimed job's `dispatched_at`, so that there are still as many messages
# as waiting jobs, with the same times.
CLAIM = f"""
WITH message AS MATERIALIZED (
    SELECT id, service_class, dispatched_at FROM jobs_job WHERE id = %(job)s FOR NO KEY UPDATE
),
first AS MATERIALIZED (
    SELECT id, dispatched_at FROM jobs_job
    WHERE service_class = (SELECT service_class FROM message) AND status = 'queued' AND dispatched_at IS NOT NULL
      AND {_HELD}
    ORDER BY tag, id LIMIT 1 FOR NO KEY UPDATE SKIP LOCKED
),
due AS MATERIALIZED (
    SELECT * FROM first UNION ALL SELECT id, dispatched_at FROM message WHERE NOT EXISTS (SELECT FROM first)
),
passed_over AS MATERIALIZED (
    SELECT id FROM jobs_job
    WHERE service_class = (SELECT service_class FROM message) AND status = 'queued' AND dispatched_at = %(sent)s
      AND dispatched_at <> (SELECT dispatched_at FROM due)
    LIMIT 1 FOR NO KEY UPDATE SKIP LOCKED
),
exchanged AS (
    UPDATE jobs_job SET dispatched_at = due.dispatched_at FROM due, passed_over WHERE jobs_job.id = passed_over.id
)
UPDATE jobs_job SET status = 'running', worker = %(worker)s, attempt = attempt + 1, step = 0, started_at = now(),
                    lease_expires_at = now() + %(lease)s
FROM due WHERE jobs_job.id = due.id AND status = 'queued' AND {_HELD}
RETURNING jobs_job.*
"""


def sent(jobs: Sequence[Job], moment: datetime) -> None:
    """Note that messages for these queued jobs, oldest first, were sent at that moment, and give each job its tag.

    A job that has a tag from an earlier attempt is not put behind its account's younger jobs.
    """
    flows = list({(job.account_id, job.service_class) for job in jobs})
    with connection.cursor() as cursor:
        cursor.execute(_TIMES, [list({name for _, name in flows})])
        times: dict[str, int] = dict(cursor.fetchall())
        cursor.execute(_ENDS, [[account for account, _ in flows], [name for _, name in flows]])
        ends: dict[tuple[UUID, str], int] = {(account, name): end or 0 for account, name, end in cursor.fetchall()}
        tags = []
        for job in jobs:
            flow = job.account_id, job.service_class
            if job.tag is None:
                tags.append(max(times[job.service_class], ends[flow]))
                ends[flow] = tags[-1] + job.quoted
            else:
                tags.append(max(times[job.service_class], job.tag))
        cursor.execute(_SENT, [moment, [job.id for job in jobs], tags])


def somebody_waits(job_id: UUID) -> bool:
    """Return whether a job of the same class waits that a message was sent for."""
    name = Job.objects.filter(id=job_id).values("service_class")[:1]
    return Job.objects.filter(status=Status.QUEUED, service_class=name, dispatched_at__isnull=False).exists()


def queue_position(job: Job) -> int | None:
    """How many jobs of its class are in front of a queued one, plus one; counted no further than FAR."""
    if job.status != Status.QUEUED:
        return None
    before = Q(id__lt=job.id) if job.tag is None else Q(tag__lt=job.tag) | Q(tag=job.tag, id__lt=job.id)
    ahead = Job.objects.filter(before, status=Status.QUEUED, service_class=job.service_class)
    return ahead.values("id")[: FAR - 1].count() + 1
