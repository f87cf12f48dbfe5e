"""Progress and previews of a worker's jobs, for whoever watches them."""

from __future__ import annotations

import base64
import io
import logging
import threading
import time
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Protocol
from uuid import UUID

from PIL.Image import Image
from redis import Redis, RedisError

from marketplace.jobs import news
from marketplace.jobs.models import Job
from marketplace.jobs.news import Preview, Progress

if TYPE_CHECKING:
    from inference.request import Request

PAUSE = 0.1
"""Seconds between two broadcasts at least, however short the steps are."""

logger = logging.getLogger(__name__)


class Running(Protocol):
    """A job that runs, and the engine's requests for its pictures."""

    job: Job
    requests: list[Request]


class Broadcast:
    """A thread that tells how far the jobs are, as soon as a step has ended, and draws previews of those watched."""

    def __init__(self, tasks: Callable[[], Collection[Running]], draw: Callable[[Request], Image | None]) -> None:
        """`tasks` are the jobs that run now; `draw` makes a request's preview, or None if it has none."""
        self._tasks = tasks
        self._draw = draw
        self._stepped = threading.Event()
        self._told: dict[UUID, Progress] = {}
        self._stopped = False

    def start(self) -> None:
        threading.Thread(target=self._run, name="broadcast", daemon=True).start()

    def stop(self) -> None:
        self._stopped = True
        self._stepped.set()

    def note(self, _: Request) -> None:
        """Note that a request has made a step; the engine calls this between two steps."""
        self._stepped.set()

    def _run(self) -> None:
        redis = news.connect()
        while not self._stopped:
            self._stepped.wait()
            self._stepped.clear()
            pause = PAUSE
            try:
                self._tell(redis)
            except (RedisError, OSError) as error:
                logger.warning("nobody could be told how far jobs are: %s", error)
                pause = news.PATIENCE
            except Exception:  # a preview that cannot be drawn must not end all others
                logger.exception("a broadcast failed")
            time.sleep(pause)

    def _tell(self, redis: Redis) -> None:
        """Send the steps of the jobs that have made some, then previews of those of them that somebody watches."""
        now = {task.job.id: task for task in self._tasks()}
        steps = {
            job_id: Progress(task.job.attempt, sum(request.state.step_index for request in task.requests))
            for job_id, task in now.items()
        }
        moved = [(job_id, steps[job_id]) for job_id in steps if steps[job_id] != self._told.get(job_id)]
        self._told = steps
        if not moved:
            return
        watched = news.publish(redis, moved)
        previews = [
            (job_id, preview)
            for (job_id, _), watchers in zip(moved, watched, strict=True)
            if watchers
            for preview in self._previews(now[job_id])
        ]
        if previews:
            news.publish(redis, previews)

    def _previews(self, task: Running) -> list[Preview]:
        found = []
        for index, request in enumerate(task.requests):
            step = request.state.step_index
            if not request.ticket.future.done() and (image := self._draw(request)):
                found.append(Preview(task.job.attempt, index, step, _jpeg(image)))
        return found


def _jpeg(image: Image) -> str:
    encoded = io.BytesIO()
    image.save(encoded, format="JPEG", quality=80)
    return base64.b64encode(encoded.getvalue()).decode()
