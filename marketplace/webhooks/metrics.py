"""What Prometheus learns of deliveries: attempts as they happen, and what waits from the database."""

from __future__ import annotations

from collections.abc import Iterator

from django.db import connection
from prometheus_client import Counter
from prometheus_client.core import GaugeMetricFamily, Metric

from marketplace.webhooks.deliveries import Answer
from marketplace.webhooks.models import Delivery

ATTEMPTS = Counter("kiln_delivery_attempts", "Attempts to deliver webhooks and e-mails", ["channel", "outcome"])
for _channel in Delivery.Channel.values:
    for _outcome in ("delivered", "failed"):
        ATTEMPTS.labels(_channel, _outcome)  # shown from the beginning, as alarms need it
# Those of paused endpoints wait on purpose.
_WAITING = """
SELECT channel, count(*), coalesce(extract(epoch FROM now() - min(next_at) FILTER (
    WHERE paused_until IS NULL OR paused_until <= now())), 0)::float
FROM webhooks_delivery LEFT JOIN webhooks_endpoint AS endpoint ON endpoint.id = endpoint_id
WHERE status = 'waiting' GROUP BY channel
"""


def tried(delivery: Delivery, answer: Answer) -> None:
    """Count an attempt."""
    ATTEMPTS.labels(delivery.channel, "delivered" if answer.is_success else "failed").inc()


def waiting() -> Iterator[Metric]:
    """Return what waits to be delivered, and for how long the oldest has been due."""
    count = GaugeMetricFamily("kiln_deliveries_waiting", "Webhooks and e-mails to be delivered", labels=["channel"])
    late = GaugeMetricFamily("kiln_delivery_late_seconds", "Seconds since the oldest was due", labels=["channel"])
    with connection.cursor() as cursor:
        cursor.execute(_WAITING)
        found = {channel: (waiting, seconds) for channel, waiting, seconds in cursor.fetchall()}
    for channel in Delivery.Channel.values:
        waiting, seconds = found.get(channel, (0, 0.0))
        count.add_metric([channel], waiting)
        late.add_metric([channel], max(seconds, 0.0))
    yield from (count, late)
