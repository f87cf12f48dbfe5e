"""Runs the hot path's SQL as prepared statements, which Django's cursors cannot do. Not for the ORM's own queries.

A prepared statement is parsed and planned once per connection; planning a wallet operation costs the server more than
running it. A plan outlives the conditions it was made under, so connections are opened with `enable_seqscan=off` (see
settings): otherwise a plan made while a table was small would still scan it once it is large.

It uses the parts that psycopg's cursors are built from, but no cursor. A process that buys sleeps most of the time and
wakes up to cold caches, where a cursor's own work costs more than sending the statement and reading the answer.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping
from itertools import count
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from django.db import DEFAULT_DB_ALIAS, connections
from django.db.backends.base.base import BaseDatabaseWrapper
from psycopg import Connection, abc
from psycopg.adapt import AdaptersMap, PyFormat, Transformer
from psycopg.errors import FeatureNotSupported, InvalidSqlStatementName, error_from_result
from psycopg.generators import execute
from psycopg.pq import ExecStatus, TransactionStatus
from psycopg.pq.abc import PGresult
from psycopg.types.datetime import TimestamptzLoader

_DONE = (ExecStatus.TUPLES_OK, ExecStatus.COMMAND_OK)
_IDLE = TransactionStatus.IDLE
_PARAMETER = re.compile(r"%\((\w+)\)s")


class _Prepared(NamedTuple):
    """A statement prepared on a connection, with how its values are written and its rows read."""

    name: bytes
    parameters: list[str]
    formats: list[PyFormat]
    transformer: abc.Transformer


_thread = threading.local()
# Never repeated: an interrupted call may leave a name that the server knows and this process does not.
_numbers = count()
_prepared: WeakKeyDictionary[Connection[Any], dict[str, _Prepared]] = WeakKeyDictionary()


def run(sql: str, values: Mapping[str, Any]) -> tuple[Any, ...] | None:
    """Return the first row of one statement, or None. Raises Django's database errors."""
    found = rows(sql, values)
    return found[0] if found else None


def rows(sql: str, values: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    """Return the rows of one statement; `%(name)s` in it is the value of that name. Raises Django's database errors.

    The server infers a value's type from its place, so that one plan serves all values: write a cast where it cannot.
    """
    database = _database()
    if database.connection is None:
        database.ensure_connection()
    database.validate_no_broken_transaction()
    with database.wrap_database_errors:
        return _execute(database.connection, sql, values)


def _database() -> BaseDatabaseWrapper:
    """Return this thread's connection. Django checks each time for an event loop with its own; here there is none."""
    try:
        found: BaseDatabaseWrapper = _thread.database
    except AttributeError:
        found = _thread.database = connections[DEFAULT_DB_ALIAS]
    return found


def _execute(connection: Connection[Any], sql: str, values: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    server = connection.pgconn
    if not connection.autocommit and server.transaction_status == _IDLE:
        server.send_query(b"BEGIN")
        _answer(connection)
    if (known := _prepared.get(connection)) is None:
        known = _prepared[connection] = {}
    if (statement := known.get(sql)) is None:
        statement = known[sql] = _prepare(connection, sql)
    transformer = statement.transformer
    given = transformer.dump_sequence([values[name] for name in statement.parameters], statement.formats)
    server.send_query_prepared(statement.name, given)
    try:
        answer = _answer(connection)
    except (FeatureNotSupported, InvalidSqlStatementName):  # a table has changed, or the names are gone
        known.clear()
        raise
    if not answer.nfields:
        return []
    transformer.set_pgresult(answer)
    return transformer.load_rows(0, answer.ntuples, tuple)


def _prepare(connection: Connection[Any], sql: str) -> _Prepared:
    parameters = list(dict.fromkeys(_PARAMETER.findall(sql)))
    text = _PARAMETER.sub(lambda found: f"${parameters.index(found[1]) + 1}", sql)
    name = f"statement_{next(_numbers)}".encode()
    connection.pgconn.send_prepare(name, text.encode())
    _answer(connection)
    # Made from the adapters: one made from the connection would keep the connection alive forever.
    adapters = AdaptersMap(connection.adapters)
    adapters.register_loader("timestamptz", TimestamptzLoader)  # Django's own is not in C
    transformer = Transformer(adapters)
    return _Prepared(name, parameters, [PyFormat.TEXT] * len(parameters), transformer)


def _answer(connection: Connection[Any]) -> PGresult:
    """Return the server's answer to what was sent. Raises psycopg's errors."""
    answers: list[PGresult] = connection.wait(execute(connection.pgconn))
    for answer in answers:
        if answer.status not in _DONE:
            raise error_from_result(answer)
    return answers[0]
