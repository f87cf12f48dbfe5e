"""The periodic tasks, on the schedule in `marketplace.celery`. Each may miss a turn; none runs beside itself."""

from __future__ import annotations

import logging
from collections.abc import Collection
from uuid import UUID

from django.conf import settings

from billing.payments import automatic, invoices, payees, payouts, reconcile, refund_orders, stripe
from billing.tokens import debts, lots, marketing, rollups, takebacks
from inference.models import catalog
from lora import opinions
from marketplace import closing, keeping
from marketplace.accounts import customers
from marketplace.accounts.models import Account
from marketplace.adapters import uploads
from marketplace.approvals import requests
from marketplace.audit import proof
from marketplace.identifiers import uuid7
from marketplace.jobs import forgetting, inputs, sweeper
from marketplace.maintenance import periodic
from marketplace.trainings import lifecycle as trainings
from marketplace.trainings import pictures
from marketplace.webhooks import deliveries, events

logger = logging.getLogger(__name__)


@periodic.task
def sweep() -> None:
    sweeper.sweep()


@periodic.task
def keep_lots() -> None:
    """Bring the lots up to date, and earnings with them. Debts come before expiry: what returns to a lot pays first."""
    lots.catch_up()
    marketing.weigh()
    takebacks.recover()
    debts.collect()
    lots.expire()


@periodic.task
def roll_up() -> None:
    rollups.roll_up()


@periodic.task
def close_months() -> None:
    """Close the months that are over, each in its account's time zone."""
    invoices.close_due(customers.invoiced)


@periodic.task
def keep_payments() -> None:
    """Carry out due refunds, and automatic top-ups of active accounts."""
    if settings.STRIPE_SECRET_KEY:
        reached = stripe.from_settings()
        refund_orders.carry_out(reached)
        automatic.run(reached, uuid7, _open_accounts)


@periodic.task
def keep_payouts() -> None:
    """Order the month's payouts, and have Stripe carry out those that are due."""
    if settings.STRIPE_SECRET_KEY:
        reached = stripe.from_settings()
        payees.follow(reached)
        payouts.order_monthly(uuid7)
        payouts.carry_out(reached)


@periodic.task
def reconcile_payments() -> None:
    if settings.STRIPE_SECRET_KEY:
        for line in reconcile.run(stripe.from_settings())[0]:
            logger.warning("repaired %s", line)


@periodic.task
def keep_requests() -> None:
    requests.keep()


@periodic.task
def keep_files() -> None:
    if expired := keeping.expire():
        logger.info("removed %s files that had expired", expired)


@periodic.task
def keep_trainings() -> None:
    """Take trainings back from trainers that fell silent, and remove what those that have ended need no more."""
    if found := trainings.expire_leases() + trainings.expire_holds():
        logger.warning("%s trainings had lost their trainers or their holds", found)
    pictures.clear()


@periodic.task
def keep_adapters() -> None:
    """Check what was sent as adapters, and remove files that nobody needs any more."""
    uploads.check_all(catalog.card(settings.MODEL))
    uploads.remove_unused(inputs.adapters_in_use())


@periodic.task
def keep_market() -> None:
    opinions.sum_up()


@periodic.task
def watch_balances() -> None:
    events.tell_low_balances()


@periodic.task
def keep_deliveries() -> None:
    deliveries.forget()


@periodic.task
def keep_forgetting() -> None:
    forgetting.keep()
    closing.keep()


@periodic.task
def anchor_audit() -> None:
    """Log the audit's head: a record that was anchored in the logs cannot be removed unnoticed."""
    logger.info("audit head %s", proof.head())


def _open_accounts(owners: Collection[UUID]) -> list[UUID]:
    accounts = Account.objects.filter(id__in=owners, is_active=True, owner__is_active=True)
    return list(accounts.values_list("id", flat=True))
