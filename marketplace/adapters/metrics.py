"""What Prometheus learns of adapters: checks of what was sent, and the workers' copies.

A copy that a worker wanted is a hit, or a miss that is fetched; one that is damaged is a miss, too.
"""

from __future__ import annotations

from collections.abc import Iterator

from django.db import connection
from prometheus_client import Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric

OUTCOMES = ("hit", "miss", "damaged", "unavailable")
COPIES = Counter("kiln_adapter_copies", "Adapters' files that a worker wanted for a job", ["outcome"])
FETCHED = Counter("kiln_adapter_bytes_fetched", "Bytes of adapters' files that were fetched from the storage")
EVICTED = Counter("kiln_adapter_copies_evicted", "Copies that were removed to make room")
EVICTED_BYTES = Counter("kiln_adapter_bytes_evicted", "Bytes of these")
HERE = Gauge("kiln_adapter_copies_bytes", "Bytes of copies on this machine", multiprocess_mode="livemostrecent")
RESULTS = ("ready", "refused", "failed")
CHECKS = Counter("kiln_adapter_checks", "Adapters' files that were checked", ["result"])
CHECK_SECONDS = Histogram(
    "kiln_adapter_check_seconds", "Seconds of one check", buckets=(1, 2.5, 5, 10, 20, 40, 80, 180)
)
for _outcome in OUTCOMES:  # shown from the beginning, as alarms need it
    COPIES.labels(_outcome)
for _result in RESULTS:
    CHECKS.labels(_result)

_WAITING = """
SELECT count(*), coalesce(extract(epoch FROM now() - min(created_at)), 0)::float FROM lora_version
WHERE status = 'checking' AND deleted_at IS NULL
"""


def wanted(outcome: str, fetched: int = 0) -> None:
    """Count a file that a worker wanted, and the bytes that had to be fetched for it."""
    assert outcome in OUTCOMES
    COPIES.labels(outcome).inc()
    FETCHED.inc(fetched)


def evicted(size: int) -> None:
    """Count a copy that was removed."""
    EVICTED.inc()
    EVICTED_BYTES.inc(size)


def checked(result: str, seconds: float) -> None:
    """Count a check that has ended."""
    assert result in RESULTS
    CHECKS.labels(result).inc()
    CHECK_SECONDS.observe(seconds)


def waiting() -> Iterator[Metric]:
    """Return how many files wait to be checked, and the age of the oldest."""
    with connection.cursor() as cursor:
        cursor.execute(_WAITING)
        count, seconds = cursor.fetchone()
    yield GaugeMetricFamily("kiln_adapter_checks_waiting", "Adapters' files that wait to be checked", value=count)
    yield GaugeMetricFamily("kiln_adapter_check_age_seconds", "Age of the oldest of these", value=seconds)
