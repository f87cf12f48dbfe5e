"""The periodic tasks, on the schedule in `marketplace.celery`. Each may run twice at once, or miss a turn.

They keep the names that they had in `marketplace.jobs`, so that messages sent before an upgrade are still understood.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from uuid import UUID

from django.conf import settings

from billing.payments import automatic, reconcile, refund_orders, stripe
from billing.tokens import debts, lots, rollups
from marketplace.accounts.models import Account
from marketplace.approvals import requests
from marketplace.audit import proof
from marketplace.celery import app
from marketplace.identifiers import uuid7
from marketplace.jobs import sweeper

logger = logging.getLogger(__name__)


@app.task(name="marketplace.jobs.tasks.sweep")
def sweep() -> None:
    sweeper.sweep()


@app.task(name="marketplace.jobs.tasks.keep_lots")
def keep_lots() -> None:
    """Bring the lots up to date. Debts come before expiry, since Tokens that return to a lot pay debts first."""
    lots.catch_up()
    debts.collect()
    lots.expire()


@app.task(name="marketplace.jobs.tasks.roll_up")
def roll_up() -> None:
    rollups.roll_up()


@app.task(name="marketplace.jobs.tasks.keep_payments")
def keep_payments() -> None:
    """Carry out due refunds, and automatic top-ups of active accounts."""
    if settings.STRIPE_SECRET_KEY:
        reached = stripe.from_settings()
        refund_orders.carry_out(reached)
        automatic.run(reached, uuid7, _open_accounts)


@app.task(name="marketplace.jobs.tasks.reconcile_payments")
def reconcile_payments() -> None:
    if settings.STRIPE_SECRET_KEY:
        for line in reconcile.run(stripe.from_settings())[0]:
            logger.warning("repaired %s", line)


@app.task(name="marketplace.jobs.tasks.keep_requests")
def keep_requests() -> None:
    requests.keep()


@app.task(name="marketplace.jobs.tasks.anchor_audit")
def anchor_audit() -> None:
    """Log the audit's head: a record that was anchored in the logs cannot be removed unnoticed."""
    logger.info("audit head %s", proof.head())


def _open_accounts(owners: Collection[UUID]) -> list[UUID]:
    accounts = Account.objects.filter(id__in=owners, is_active=True, owner__is_active=True)
    return list(accounts.values_list("id", flat=True))
