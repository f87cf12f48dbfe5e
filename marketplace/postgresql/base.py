"""Django's PostgreSQL backend, whose pool checks a connection only where it has rested for a while.

Django's own health check costs every request a round trip to the server. Here a connection that was used within
the last second is trusted: after a restart of the server, requests fail only where they would have fallen into it
anyway.
"""

from __future__ import annotations

import time
from typing import Any
from weakref import WeakKeyDictionary

import psycopg
from django.db.backends.postgresql import base
from psycopg_pool import ConnectionPool

TRUSTED_SECONDS = 1.0

_rested_since: WeakKeyDictionary[psycopg.Connection[Any], float] = WeakKeyDictionary()


class DatabaseWrapper(base.DatabaseWrapper):
    def get_new_connection(self, conn_params: Any) -> Any:
        """A connection that works; the pool replaces those that do not. Raises PoolTimeout without a server."""
        while True:
            connection = super().get_new_connection(conn_params)
            since = _rested_since.get(connection)
            if since is None or time.monotonic() - since < TRUSTED_SECONDS:
                return connection
            try:
                ConnectionPool.check_connection(connection)
            except psycopg.OperationalError:
                connection._pool.putconn(connection)
            else:
                return connection

    def _close(self) -> None:
        if self.connection is not None:
            _rested_since[self.connection] = time.monotonic()
        super()._close()  # type: ignore[misc]
