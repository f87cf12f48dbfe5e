"""News of jobs for whoever watches one, through Redis: kept nowhere, and lost without harm.

The database is the truth (see `states`); news only spare those who watch the wait until they look again. A thread of
its own sends them, so that no job fails or waits where Redis is slow or away.
"""

from __future__ import annotations

import json
import logging
import queue
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Literal
from uuid import UUID

from django.conf import settings
from django.db import transaction
from redis import Redis, RedisError
from redis.backoff import NoBackoff
from redis.retry import Retry

MOST_WAITING = 1000
MOST_TOGETHER = 100
PATIENCE = 1.0
"""Seconds that Redis has to answer, and that it is left alone after it did not."""
PREFIX = "kiln:job:"

logger = logging.getLogger(__name__)
_waiting: queue.Queue[UUID] = queue.Queue(MOST_WAITING)
_starting = threading.Lock()
_sender: threading.Thread | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """How many steps an attempt has done, of all the job's pictures together."""

    attempt: int
    step: int


@dataclass(frozen=True, slots=True)
class Preview:
    """What picture `index` of a job will be, as far as this step tells: a small JPEG in base64."""

    attempt: int
    index: int
    step: int
    jpeg: str


Changed = Literal["changed"]
News = Progress | Preview | Changed


def changed(job_id: UUID) -> None:
    """Say that the job's row is another one, once the transaction has committed."""
    transaction.on_commit(partial(_send_later, job_id), robust=True)


def channel(job_id: UUID) -> str:
    return f"{PREFIX}{job_id}"


def connect() -> Redis:
    """Return a client that gives up soon and tries nothing twice."""
    return Redis.from_url(
        settings.REDIS_URL, socket_timeout=PATIENCE, socket_connect_timeout=PATIENCE, retry=Retry(NoBackoff(), 0)
    )


def publish(redis: Redis, told: Sequence[tuple[UUID, News]]) -> list[int]:
    """Send news of jobs; return how many watch each of them. Raises RedisError."""
    pipeline = redis.pipeline(transaction=False)
    for job_id, news in told:
        pipeline.publish(channel(job_id), write(news))
    return list(pipeline.execute())


def write(news: News) -> str:
    if isinstance(news, str):
        return json.dumps({"kind": news})
    return json.dumps({"kind": "preview" if isinstance(news, Preview) else "progress", **asdict(news)})


def read(message: str | bytes) -> News:
    """Return what `write` wrote. Raises ValueError for anything else."""
    values: Mapping[str, Any] = json.loads(message)
    match values:
        case {"kind": "progress", "attempt": int(attempt), "step": int(step)}:
            return Progress(attempt, step)
        case {"kind": "preview", "attempt": int(a), "index": int(index), "step": int(step), "jpeg": str(jpeg)}:
            return Preview(a, index, step, jpeg)
        case {"kind": "changed"}:
            return "changed"
    raise ValueError("no news of a job")


def _send_later(job_id: UUID) -> None:
    global _sender
    with _starting:
        if _sender is None or not _sender.is_alive():
            _sender = threading.Thread(target=_send, name="news", daemon=True)
            _sender.start()
    try:
        _waiting.put_nowait(job_id)
    except queue.Full:  # Redis is slow or away; those who watch look by themselves
        logger.debug("news of job %s were dropped", job_id)


def _send() -> None:
    redis = connect()
    while True:
        job_ids = {_waiting.get()}
        while len(job_ids) < MOST_TOGETHER and not _waiting.empty():
            job_ids.add(_waiting.get())
        try:
            publish(redis, [(job_id, "changed") for job_id in job_ids])
        except (RedisError, OSError) as error:
            logger.warning("nobody could be told of changed jobs: %s", error)
            time.sleep(PATIENCE)
