"""Where many jobs and trainings stand: for those who watch them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from django.db import connection

from marketplace.jobs import states
from marketplace.jobs.states import State
from marketplace.trainings.lifecycle import WAITED

_LOOK = f"""
WITH watched AS (SELECT *, {WAITED} AS waited FROM trainings_training WHERE id = ANY(%s))
SELECT id, status, attempt, step, steps, CASE WHEN status = 'queued' THEN greatest(1, (
    SELECT count(*) FROM trainings_training AS ahead
    WHERE ahead.status = 'queued' AND ({WAITED}, ahead.id) >= (watched.waited, watched.id)
)) END, loss, seconds_left, (evaluations -> -1 ->> 'step')::int
FROM watched
"""


@dataclass(frozen=True, slots=True)
class TrainingState(State):
    """Where a training stands; `evaluated` is the last step that was measured."""

    loss: float | None = None
    seconds_left: int | None = None
    evaluated: int | None = None


def look(ids: Sequence[UUID]) -> dict[UUID, State]:
    """Return the states of these jobs and trainings, without those that are not there."""
    found: dict[UUID, State] = dict(states.look(ids))
    if others := [each for each in ids if each not in found]:
        with connection.cursor() as cursor:
            cursor.execute(_LOOK, [others])
            found |= {row[0]: TrainingState(*row) for row in cursor.fetchall()}
    return found
