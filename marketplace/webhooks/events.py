"""Events become deliveries, in the transaction in which they happen, and for those who want to be told of them."""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID

from django.db import connection, transaction
from django.db.models.functions import Now

from billing import notices
from billing.amounts import format_tokens
from billing.prepared import run
from marketplace.accounts.models import Account
from marketplace.identifiers import uuid7
from marketplace.webhooks.models import MAIL_LANE, MAILED, EventType, Preferences

# An order's deliveries share a lane with those to the same host, so that a slow one keeps hardly another waiting; of
# an account there are 256 such lanes, however many hosts it names, since a claim looks at each. Ids are made like the
# event's, as of the same time.
_TELL = """
WITH chosen AS (
    SELECT id FROM webhooks_endpoint WHERE account_id = %(account)s::uuid AND enabled AND %(type)s::text = ANY(types)
    FOR KEY SHARE -- whoever deletes one meanwhile waits
)
INSERT INTO webhooks_delivery (id, account_id, channel, endpoint_id, lane, url, event, type, job, data, happened_at,
                               status, attempts, next_at, answer, error)
SELECT (left(%(event)s::text, 19) || right(gen_random_uuid()::text, 17))::uuid, %(account)s::uuid, place.channel,
       place.endpoint, place.lane, place.url, %(event)s::text::uuid, %(type)s::text, %(job)s::uuid, %(data)s::jsonb,
       now(), 'waiting', 0, now(), '', ''
FROM (
    SELECT 'endpoint' AS channel, id AS endpoint, id AS lane, '' AS url FROM chosen
    UNION ALL
    SELECT 'order', NULL,
           md5(%(account)s::text
               || left(md5(coalesce(substring(lower(%(url)s::text) FROM '^[a-z]+://([^/?#]*)'), '')), 2))::uuid,
           %(url)s::text
    WHERE %(url)s::text IS NOT NULL
    UNION ALL
    SELECT 'mail', NULL, %(mail_lane)s::uuid, ''
    WHERE %(mailed)s::boolean AND NOT EXISTS (
        SELECT FROM webhooks_preferences WHERE account_id = %(account)s::uuid AND %(type)s::text = ANY(muted)
    )
) AS place
"""
# A threshold of one's own counts, else that of automatic top-ups. `low_since` changes once each way.
_LOW = """
SELECT account.id, wallet.balance - wallet.held, limits.threshold
FROM (
    SELECT account_id AS id, low_balance AS threshold FROM webhooks_preferences WHERE low_balance IS NOT NULL
    UNION ALL
    SELECT owner, standing.threshold FROM billing_automatictopup AS standing
    WHERE NOT EXISTS (SELECT FROM webhooks_preferences WHERE account_id = owner AND low_balance IS NOT NULL)
) AS limits
JOIN accounts_account AS account USING (id)
JOIN billing_wallet AS wallet ON wallet.owner = account.id AND wallet.kind = 'customer'
LEFT JOIN webhooks_preferences AS preferences ON preferences.account_id = account.id
WHERE wallet.balance - wallet.held < limits.threshold AND preferences.low_since IS NULL
LIMIT 500
"""
_ENOUGH = """
UPDATE webhooks_preferences AS preferences SET low_since = NULL
FROM billing_wallet AS wallet
WHERE preferences.low_since IS NOT NULL AND wallet.owner = preferences.account_id AND wallet.kind = 'customer'
  AND wallet.balance - wallet.held >= coalesce(
      preferences.low_balance,
      (SELECT threshold FROM billing_automatictopup WHERE owner = preferences.account_id), 0)
"""


def tell(
    account_id: UUID, kind: str, *, job: UUID | None = None, url: str | None = None, data: dict[str, Any] | None = None
) -> None:
    """Write an event's deliveries: one for each endpoint that chose its type, the order's `url`, and an e-mail.

    One statement, within the transaction that makes the event happen.
    """
    values = {
        "account": account_id, "event": str(uuid7()), "type": kind, "job": job, "url": url,
        "data": None if data is None else json.dumps(data), "mailed": kind in MAILED, "mail_lane": MAIL_LANE,
    }  # fmt: skip
    run(_TELL, values)


@transaction.atomic
def tell_notices() -> int:
    """Tell customers what happened to their payments; return how many notices there were."""
    found = notices.take()
    known = set(Account.objects.filter(id__in=[notice.owner for notice in found]).values_list("id", flat=True))
    for notice in found:
        if notice.owner in known:
            tell(notice.owner, notice.kind, data=notice.data)
    return len(found)


def tell_low_balances() -> None:
    """Tell the accounts whose Tokens have run low since the last time, once until there are enough again."""
    with connection.cursor() as cursor:
        cursor.execute(_ENOUGH)
        cursor.execute(_LOW)
        found = cursor.fetchall()
    for account_id, available, threshold in found:
        _tell_low(account_id, available, threshold)


@transaction.atomic
def _tell_low(account_id: UUID, available: int, threshold: int) -> None:
    Preferences.objects.get_or_create(account_id=account_id)
    if Preferences.objects.filter(account_id=account_id, low_since=None).update(low_since=Now()):
        data = {"available": format_tokens(available), "threshold": format_tokens(threshold)}
        tell(account_id, EventType.BALANCE_LOW, data=data)
