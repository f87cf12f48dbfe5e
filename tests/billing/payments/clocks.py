"""Clocks that can be moved: the database's, this process's and the double's of Stripe, together and apart.

The database's functions of time are shadowed by ones of the same names in a schema that is searched first, and its
columns' defaults are pointed at them; both last as long as the transaction of the test.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, tzinfo
from typing import ClassVar

from django.db import connection
from django.utils import timezone

SHADOWS = """
CREATE SCHEMA story;
SELECT set_config('story.ahead', '0 s', true);
CREATE FUNCTION story.statement_timestamp() RETURNS timestamptz LANGUAGE sql STABLE
    RETURN pg_catalog.statement_timestamp() + pg_catalog.current_setting('story.ahead')::interval;
CREATE FUNCTION story.now() RETURNS timestamptz LANGUAGE sql STABLE RETURN story.statement_timestamp();
CREATE FUNCTION story.transaction_timestamp() RETURNS timestamptz LANGUAGE sql STABLE
    RETURN story.statement_timestamp();
CREATE FUNCTION story.clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE
    RETURN pg_catalog.clock_timestamp() + pg_catalog.current_setting('story.ahead')::interval;
"""
DEFAULTS = """
SELECT format('ALTER TABLE %I ALTER COLUMN %I SET DEFAULT story.%s', table_name, column_name,
              lower(replace(column_default, 'pg_catalog.', '')))
FROM information_schema.columns
WHERE table_schema = 'public'
  AND column_default ~* '^(statement_timestamp|now|transaction_timestamp|clock_timestamp)\\(\\)$'
"""


class _Moved(datetime):
    """What Django asks for the time."""

    ahead: ClassVar[timedelta] = timedelta(0)

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
        return datetime.now(tz) + cls.ahead


@contextmanager
def movable() -> Iterator[None]:
    """Until the end of the block the clocks can be moved; the test's transaction undoes the rest."""
    with connection.cursor() as cursor:
        cursor.execute(SHADOWS)
        cursor.execute(DEFAULTS)
        for (statement,) in cursor.fetchall():
            cursor.execute(statement)
        cursor.execute("SET LOCAL search_path = story, pg_catalog, public")
    before = timezone.datetime  # type: ignore[attr-defined]
    timezone.datetime = _Moved  # type: ignore[attr-defined]
    try:
        yield
    finally:
        timezone.datetime = before  # type: ignore[attr-defined]
        _Moved.ahead = timedelta(0)


def move(database: timedelta, process: timedelta) -> None:
    """Put the database's clock and this process's so far ahead of the real one."""
    _Moved.ahead = process
    with connection.cursor() as cursor:
        cursor.execute("SELECT set_config('story.ahead', %s, true)", [f"{database.total_seconds()} s"])
