"""The database's clock, by which everything is decided that several processes take part in: theirs may differ."""

from __future__ import annotations

from datetime import datetime

from billing.prepared import run


def now() -> datetime:
    row = run("SELECT clock_timestamp()", {})
    assert row is not None
    moment: datetime = row[0]
    return moment
