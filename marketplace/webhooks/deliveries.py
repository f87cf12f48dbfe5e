"""What becomes of a delivery: claimed, delivered, tried again, given up. Each verb is one conditional UPDATE.

Whoever claims a delivery has until `next_at`, after which it is due again: so it is sent at least once, whoever dies.
An endpoint that keeps failing is tried by one delivery at a time; after days it is disabled.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from django.db import connection, transaction
from django.db.models import F, Value
from django.db.models.functions import Coalesce, Greatest, Now

from billing import clock
from marketplace.webhooks import events
from marketplace.webhooks.models import Delivery, Endpoint, EventType

# When an event is tried, counted from the time at which it happened, were every try to fail at once.
TRIES = [
    timedelta(seconds=0), timedelta(seconds=5), timedelta(minutes=5), timedelta(minutes=30),
    *(timedelta(hours=hours) for hours in (2, 5, 10, 14, 20, 24)),
]  # fmt: skip
JITTER = 0.1
# Longer than an attempt takes.
LEASE = timedelta(seconds=45)
LANE_HANDS, ACCOUNT_HANDS = 4, 8
# After so many failures in a row one delivery at a time tries an endpoint, after a pause that grows.
PATIENCE = 5
FIRST_PAUSE, LONGEST_PAUSE = timedelta(seconds=30), timedelta(hours=1)
# An endpoint that has failed for so long is disabled.
GIVE_UP = timedelta(days=5)
SLOW_DOWN = {429, 502, 504}
KEPT = timedelta(days=30)
# What an account may have of deliveries, the oldest are removed first.
MOST = 100_000

# `lane` finds the lanes in which something waits by leaping through the index, so that a long queue in one costs no
# more than a short one. Each gives what is due, one by one in turn.
_CLAIM = """
WITH RECURSIVE lane AS (
    (SELECT lane AS id FROM webhooks_delivery WHERE status = 'waiting' ORDER BY lane LIMIT 1)
    UNION ALL
    SELECT (SELECT lane FROM webhooks_delivery WHERE status = 'waiting' AND lane > lane.id ORDER BY lane LIMIT 1)
    FROM lane WHERE lane.id IS NOT NULL
),
ready AS (
    SELECT due.id, due.account_id, due.next_at, CASE WHEN endpoint.failures >= %(patience)s THEN 1 ELSE %(hands)s END
           AS hands, coalesce(busy.count, 0) + row_number() OVER (PARTITION BY lane.id ORDER BY due.next_at) AS place
    FROM lane
    LEFT JOIN webhooks_endpoint AS endpoint USING (id)
    LEFT JOIN unnest(%(lanes)s::uuid[], %(lane_counts)s::int[]) AS busy (id, count) USING (id)
    CROSS JOIN LATERAL (
        SELECT waiting.id, waiting.account_id, waiting.next_at FROM webhooks_delivery AS waiting
        WHERE waiting.lane = lane.id AND waiting.status = 'waiting' AND waiting.next_at <= now()
        ORDER BY waiting.next_at LIMIT %(hands)s
    ) AS due
    WHERE endpoint.paused_until IS NULL OR endpoint.paused_until <= now()
),
fair AS (
    SELECT ready.*, coalesce(busy.count, 0) + row_number() OVER (PARTITION BY account_id ORDER BY place, next_at)
           AS of_account
    FROM ready LEFT JOIN unnest(%(accounts)s::uuid[], %(account_counts)s::int[]) AS busy (account_id, count)
    USING (account_id) WHERE place <= hands
),
chosen AS (
    SELECT id FROM fair WHERE of_account <= %(account_hands)s ORDER BY place, next_at LIMIT %(free)s
)
UPDATE webhooks_delivery AS delivery SET attempts = attempts + 1, next_at = now() + %(lease)s
FROM chosen WHERE delivery.id = chosen.id AND status = 'waiting' AND next_at <= now()
RETURNING delivery.*
"""
_FORGET_OLD = """
DELETE FROM webhooks_delivery WHERE id IN (
    SELECT id FROM webhooks_delivery WHERE created_at < now() - %s ORDER BY id LIMIT 10000
)
"""
_FORGET_MANY = """
DELETE FROM webhooks_delivery USING (
    SELECT account.id, (SELECT id FROM webhooks_delivery WHERE account_id = account.id
                        ORDER BY id DESC OFFSET %s LIMIT 1) AS last
    FROM accounts_account AS account WHERE EXISTS (SELECT FROM webhooks_delivery WHERE account_id = account.id)
) AS full_account
WHERE account_id = full_account.id AND webhooks_delivery.id <= full_account.last
"""


@dataclass(frozen=True)
class Answer:
    """What came of an attempt: the answer's status and first characters, or why there was none."""

    status: int | None = None
    text: str = ""
    error: str = ""
    retry_after: timedelta | None = None

    @property
    def is_success(self) -> bool:
        return self.status is not None and 200 <= self.status < 300


def claim(free: int, lanes: Mapping[UUID, int], accounts: Mapping[UUID, int]) -> list[Delivery]:
    """Claim at most `free` deliveries that are due, given how many the claimer has under way, by lane and account."""
    values = {
        "free": free, "lanes": list(lanes), "lane_counts": list(lanes.values()),
        "accounts": list(accounts), "account_counts": list(accounts.values()),
        "hands": LANE_HANDS, "account_hands": ACCOUNT_HANDS, "patience": PATIENCE, "lease": LEASE,
    }  # fmt: skip
    return list(Delivery.objects.raw(_CLAIM, values))


@transaction.atomic
def finish(delivery: Delivery, answer: Answer) -> None:
    """Write down what came of a claimed delivery's attempt, unless another attempt was made meanwhile."""
    told = {"answered": answer.status, "answer": answer.text[:500], "error": answer.error[:200]}
    if delivery.endpoint_id:  # locked before its deliveries, as by whoever disables or deletes it
        Endpoint.objects.select_for_update(no_key=True).filter(id=delivery.endpoint_id).first()
    mine = Delivery.objects.filter(id=delivery.id, attempts=delivery.attempts, status=Delivery.Status.WAITING)
    if answer.is_success:
        mine.update(**told, status=Delivery.Status.DELIVERED, finished_at=Now())
        failing = Endpoint.objects.filter(id=delivery.lane, failures__gt=0)
        failing.update(failures=0, failing_since=None, paused_until=None)
        return
    pause = answer.retry_after if answer.status in SLOW_DOWN else None
    if delivery.attempts >= len(TRIES) or (answer.status == 410 and delivery.endpoint_id is None):
        mine.update(**told, status=Delivery.Status.FAILED, finished_at=Now())
    else:
        mine.update(**told, next_at=Now() + max(_wait(delivery.attempts), pause or timedelta()))
    if delivery.endpoint_id:
        _failed(delivery.endpoint_id, answer, pause)


def _wait(attempts: int) -> timedelta:
    """Return the time until the next try, after so many."""
    return (TRIES[attempts] - TRIES[attempts - 1]) * (1 + random.random() * JITTER)


def _failed(endpoint_id: UUID, answer: Answer, pause: timedelta | None) -> None:
    """Count an endpoint's failure: it is left alone for a while, or disabled."""
    rows = Endpoint.objects.filter(id=endpoint_id, enabled=True)
    rows.update(failures=F("failures") + 1, failing_since=Coalesce("failing_since", Now()))
    endpoint = rows.first()
    if endpoint is None:
        return
    now = clock.now()
    if answer.status == 410:
        disable(endpoint, Endpoint.Reason.GONE)
    elif endpoint.failing_since and endpoint.failing_since < now - GIVE_UP:
        disable(endpoint, Endpoint.Reason.FAILING)
    elif pause or endpoint.failures >= PATIENCE:
        doublings = min(max(endpoint.failures - PATIENCE, 0), 20)
        until = now + max(min(FIRST_PAUSE * 2**doublings, LONGEST_PAUSE), pause or timedelta())
        rows.update(paused_until=Greatest("paused_until", Value(until)))


@transaction.atomic
def disable(endpoint: Endpoint, reason: Endpoint.Reason) -> None:
    """Disable an endpoint, give up what waits for it, and tell its owner unless they did it."""
    done = Endpoint.objects.filter(id=endpoint.id, enabled=True).update(enabled=False, disabled_reason=reason)
    waiting = Delivery.objects.filter(lane=endpoint.id, status=Delivery.Status.WAITING)
    waiting.update(status=Delivery.Status.FAILED, finished_at=Now(), error="the webhook was disabled")
    if done and reason != Endpoint.Reason.OWNER:
        data = {"webhook": str(endpoint.id), "url": endpoint.url, "reason": reason}
        events.tell(endpoint.account_id, EventType.WEBHOOK_DISABLED, data=data)


def repeat(delivery: Delivery, moment: datetime) -> Delivery:
    """Send an event to its endpoint once more, as a delivery of its own with the event's id."""
    return Delivery.objects.create(
        account_id=delivery.account_id, channel=delivery.channel, endpoint_id=delivery.endpoint_id,
        lane=delivery.lane, url=delivery.url, event=delivery.event, type=delivery.type, job=delivery.job,
        data=delivery.data, happened_at=delivery.happened_at, next_at=moment,
    )  # fmt: skip


def forget() -> None:
    """Remove deliveries that are a month old, and each account's oldest where it has too many."""
    with connection.cursor() as cursor:
        cursor.execute(_FORGET_OLD, [KEPT])  # type: ignore[list-item]
        cursor.execute(_FORGET_MANY, [MOST])
