"""Runs the hot path's SQL as prepared statements, which Django's cursors cannot do. Not for the ORM's own queries.

A prepared statement is parsed and planned once a connection; planning a wallet's verb anew costs the server more
than running it. A plan outlives the moment it was made in, so connections are opened with `enable_seqscan=off`
(see settings): otherwise one that was made while a table was small would go on scanning it when it is large.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from django.db import DEFAULT_DB_ALIAS, connections
from psycopg import Cursor


def run(sql: str, values: Mapping[str, Any] | Sequence[Any]) -> tuple[Any, ...] | None:
    """The first row of one statement, or None. Raises Django's database errors."""
    return next(iter(rows(sql, values)), None)


def rows(sql: str, values: Mapping[str, Any] | Sequence[Any]) -> list[tuple[Any, ...]]:
    """The rows of one statement. Raises Django's database errors."""
    database = connections[DEFAULT_DB_ALIAS]
    database.ensure_connection()
    database.validate_no_broken_transaction()
    database.connection.prepare_threshold = 0
    with database.wrap_database_errors, Cursor(database.connection) as cursor:
        cursor.execute(sql, values)
        return cursor.fetchall() if cursor.pgresult and cursor.pgresult.nfields else []
