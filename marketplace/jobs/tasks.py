"""The Celery tasks, and the worker process's start and end."""

from __future__ import annotations

import gc
import logging
import threading
from collections.abc import Collection
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from celery.signals import task_postrun, task_received, worker_init, worker_shutting_down
from django.conf import settings
from prometheus_client import start_http_server

from billing.payments import automatic, reconcile, refund_orders
from billing.tokens import debts, lots, rollups
from marketplace.accounts.models import Account
from marketplace.approvals import requests
from marketplace.audit import proof
from marketplace.celery import SERVICE_CLASSES, app
from marketplace.identifiers import uuid7
from marketplace.jobs import sweeper
from marketplace.jobs.queues import HANDS

logger = logging.getLogger(__name__)
_worker: Any = None


@app.task
def fire(job_id: str, sent: float) -> None:
    """Wakes this process up to a job. The claim decides whether there is anything to do, and for whom.

    When the message was `sent`, in Unix seconds, the sweeper reads, too, while it waits.
    """
    _worker.fire(UUID(job_id), datetime.fromtimestamp(sent, UTC))


@app.task
def sweep() -> None:
    sweeper.sweep()


@app.task
def keep_lots() -> None:
    """Debts come before expiry: what a lot got back is owed first."""
    lots.catch_up()
    debts.collect()
    lots.expire()


@app.task
def roll_up() -> None:
    rollups.roll_up()


@app.task
def keep_payments() -> None:
    """Refunds that are due, and automatic top-ups of accounts that are open."""
    if settings.STRIPE_SECRET_KEY:
        refund_orders.carry_out()
        automatic.run(uuid7, _open_accounts)


def _open_accounts(owners: Collection[UUID]) -> list[UUID]:
    accounts = Account.objects.filter(id__in=owners, is_active=True, owner__is_active=True)
    return list(accounts.values_list("id", flat=True))


@app.task
def reconcile_payments() -> None:
    if settings.STRIPE_SECRET_KEY:
        for line in reconcile.run()[0]:
            logger.warning("repaired %s", line)


@app.task
def keep_requests() -> None:
    requests.keep()


@app.task
def anchor_audit() -> None:
    """Says the audit's head where logs are kept: what was anchored there cannot be removed here unnoticed."""
    logger.info("audit head %s", proof.head())


@worker_init.connect
def start(sender: Any, **_: Any) -> None:
    """Warms the engine before the first message is taken, in workers that serve the jobs' queues."""
    global _worker
    queues = set(sender.app.amqp.queues.consume_from)
    if queues & set(SERVICE_CLASSES):
        if settings.METRICS_PORT:
            start_http_server(settings.METRICS_PORT)
        gc.disable()  # nothing that is imported goes again, and looking through it takes a fifth of the time
        from marketplace.jobs.worker import Worker  # torch belongs in this process alone

        gc.freeze()
        gc.enable()
        _worker = Worker()
        _worker.start()
        HANDS.count = sender.concurrency


@task_received.connect
def took(request: Any, **_: Any) -> None:
    HANDS.take(request.id, request.delivery_info["routing_key"])


@task_postrun.connect
def done(task_id: str, **_: Any) -> None:
    HANDS.let_go(task_id)


@worker_shutting_down.connect
def leave(**_: Any) -> None:
    """SIGTERM: Celery waits for its tasks; meanwhile they finish or are given back."""
    if _worker is not None:
        threading.Thread(target=_worker.drain, args=(settings.DRAIN_SECONDS,), name="drain").start()
