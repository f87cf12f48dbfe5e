"""Where many jobs stand, in one query: for those who watch them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self
from uuid import UUID

from django.db import connection

from marketplace.jobs.models import FINAL, Job, Status
from marketplace.jobs.turns import FAR

# The places are those of `turns.queue_position`, by the same indexes.
_LOOK = f"""
SELECT id, status, attempt, step, steps, CASE
    WHEN status <> 'queued' THEN NULL
    WHEN tag IS NULL OR dispatched_at IS NULL THEN 1 + (SELECT count(*) FROM (
        SELECT FROM jobs_job AS ahead
        WHERE ahead.status = 'queued' AND ahead.service_class = jobs_job.service_class AND ahead.id < jobs_job.id
        LIMIT {FAR - 1}
    ) AS counted)
    ELSE 1 + (SELECT count(*) FROM (
        SELECT FROM jobs_job AS ahead
        WHERE ahead.status = 'queued' AND ahead.dispatched_at IS NOT NULL
          AND ahead.service_class = jobs_job.service_class AND (ahead.tag, ahead.id) < (jobs_job.tag, jobs_job.id)
        LIMIT {FAR - 1}
    ) AS counted)
END
FROM jobs_job WHERE id = ANY(%s)
"""


@dataclass(frozen=True, slots=True)
class State:
    """Where a job stands; `position` is its place in the queue while it is queued."""

    job_id: UUID
    status: str
    attempt: int
    step: int
    steps: int
    position: int | None = None

    @classmethod
    def of(cls, job: Job, position: int | None) -> Self:
        return cls(job.id, job.status, job.attempt, job.step, job.steps, position)

    @property
    def is_final(self) -> bool:
        return self.status in FINAL

    @property
    def is_running(self) -> bool:
        return self.status == Status.RUNNING


def look(job_ids: Sequence[UUID]) -> dict[UUID, State]:
    """Return the states of these jobs, without those that are not there."""
    with connection.cursor() as cursor:
        cursor.execute(_LOOK, [list(job_ids)])
        return {row[0]: State(*row) for row in cursor.fetchall()}
