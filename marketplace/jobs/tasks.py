"""The task that wakes a worker for a job, and the start and end of the worker process."""

from __future__ import annotations

import gc
import logging
import threading
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from celery.signals import task_postrun, task_received, worker_init, worker_shutting_down
from django.conf import settings
from prometheus_client import start_http_server

from marketplace.celery import SERVICE_CLASSES, app
from marketplace.jobs.queues import SLOTS

logger = logging.getLogger(__name__)
_worker: Any = None


@app.task
def fire(job_id: str, sent: float) -> None:
    """Wake this process for a job; the claim decides whether there is work, and which job is next.

    `sent` is when the message was sent, in Unix seconds; the sweeper also reads it from waiting messages.
    """
    _worker.fire(UUID(job_id), datetime.fromtimestamp(sent, UTC))


@worker_init.connect
def start(sender: Any, **_: Any) -> None:
    """Warm the engine before the first message is taken, in workers that serve the jobs' queues."""
    global _worker
    queues = set(sender.app.amqp.queues.consume_from)
    if queues & set(SERVICE_CLASSES):
        if settings.METRICS_PORT:
            start_http_server(settings.METRICS_PORT)
        gc.disable()  # nothing that is imported goes again, and looking through it takes a fifth of the time
        from marketplace.jobs.worker import Worker, engine_from_settings  # torch belongs in this process alone

        gc.freeze()
        gc.enable()
        _worker = Worker(*engine_from_settings())
        _worker.start()
        SLOTS.count = sender.concurrency


@task_received.connect
def took(request: Any, **_: Any) -> None:
    SLOTS.take(request.id, request.delivery_info["routing_key"])


@task_postrun.connect
def done(task_id: str, **_: Any) -> None:
    SLOTS.let_go(task_id)


@worker_shutting_down.connect
def leave(**_: Any) -> None:
    """Finish the jobs or give them back, on SIGTERM, while Celery waits for its tasks."""
    if _worker is not None:
        threading.Thread(target=_worker.drain, args=(settings.DRAIN_SECONDS,), name="drain").start()
