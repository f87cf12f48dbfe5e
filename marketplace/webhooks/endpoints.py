"""The verbs of endpoints: made, changed, deleted, tested. What is delivered there is in `deliveries`."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.db import transaction

from billing import clock
from marketplace.accounts.models import Account
from marketplace.identifiers import uuid7
from marketplace.webhooks import deliveries, signatures
from marketplace.webhooks.models import TEST, Delivery, Endpoint, Preferences

MOST = 20
# Tests and repeats that may wait at one endpoint.
MOST_ASKED = 100


class TooMany(Exception):
    """The account has as many webhooks as it may."""


class Disabled(Exception):
    """Nothing is sent to a disabled webhook."""


class TooManyWaiting(Exception):
    """So much waits to be sent already that nothing more is taken by request."""


@transaction.atomic
def create(account_id: UUID, url: str, types: list[str], description: str = "") -> tuple[Endpoint, str]:
    """Make an endpoint, and return it with its secret. Raises TooMany."""
    Account.objects.select_for_update(no_key=True).get(id=account_id)
    if Endpoint.objects.filter(account_id=account_id).count() >= MOST:
        raise TooMany
    made = Endpoint.objects.create(account_id=account_id, url=url, types=types, description=description)
    made.refresh_from_db()
    return made, signatures.secret(made.seed)


@transaction.atomic
def change(endpoint: Endpoint, *, enabled: bool | None = None, **values: Any) -> Endpoint:
    """Change an endpoint's `url`, `types` or `description`; enable it with a clean record, or disable it."""
    rows = Endpoint.objects.filter(id=endpoint.id)
    if enabled:
        values |= {"enabled": True, "disabled_reason": "", "failures": 0, "failing_since": None, "paused_until": None}
    if values:
        rows.update(**values)
    if enabled is False:
        deliveries.disable(endpoint, Endpoint.Reason.OWNER)
    return rows.get()


@transaction.atomic
def delete(endpoint: Endpoint) -> None:
    """Delete an endpoint with its deliveries. Events of the moment are told before, or not at all."""
    for locked in Endpoint.objects.select_for_update().filter(id=endpoint.id):
        locked.delete()


def test(endpoint: Endpoint) -> Delivery:
    """Send a test event. Raises Disabled or TooManyWaiting."""
    _check(endpoint)
    now = clock.now()
    return Delivery.objects.create(
        account_id=endpoint.account_id, channel=Delivery.Channel.ENDPOINT, endpoint=endpoint, lane=endpoint.id,
        event=uuid7(), type=TEST, data={"webhook": str(endpoint.id)}, happened_at=now, next_at=now,
    )  # fmt: skip


def replay(endpoint: Endpoint, delivery: Delivery) -> Delivery:
    """Send an event once more. Raises Disabled or TooManyWaiting."""
    _check(endpoint)
    return deliveries.repeat(delivery, clock.now())


def preferences(account_id: UUID) -> Preferences:
    return Preferences.objects.get_or_create(account_id=account_id)[0]


def _check(endpoint: Endpoint) -> None:
    if not endpoint.enabled:
        raise Disabled
    waiting = Delivery.objects.filter(lane=endpoint.id, status=Delivery.Status.WAITING)
    if waiting[:MOST_ASKED].count() >= MOST_ASKED:
        raise TooManyWaiting
