"""Answers that are not complete yet, for the server that can wait without a thread (`marketplace.streams`).

A view does all that it can do at once, and gives its response an attribute `later`:

    response = Response(…, status=202)
    response.later = Waiting(job.id, job.account_id, 60, answer=lambda: Answer(200, body))

The web server sends the response as it is, so it must make sense alone: an order that was taken, the beginning of a
stream. `marketplace.streams` sends another one once the job has ended (`Waiting`), or goes on with the same one while
there is news (`Stream`). Whatever a view passes here is called in a thread and may ask the database, except
`Stream.write`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from marketplace.jobs.news import Preview
from marketplace.jobs.states import State


@dataclass(frozen=True)
class Answer:
    """A JSON answer in the place of the response; headers that are not named here stay."""

    status: int
    body: Any
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Waiting:
    """`answer` is sent in the response's place when the job has ended, or after so many seconds."""

    job_id: UUID
    account_id: UUID
    seconds: float
    answer: Callable[[], Answer]


@dataclass(frozen=True)
class Stream:
    """What is sent after the response, while the job goes on.

    `write` says what a change or a preview means in the stream, nothing if `b""`; it runs in the event loop and must be
    quick. `end` is the last of it, once the job has ended. `account_id` is who watches. Where the stream's request has
    bought the job, the response says so, for whoever cannot be sent a stream: an order that was taken is not refused.
    The stream then takes its place, with the headers `opens`.
    """

    job_id: UUID
    account_id: UUID
    write: Callable[[State | Preview], bytes]
    end: Callable[[], bytes]
    opens: Mapping[str, str] | None = None
