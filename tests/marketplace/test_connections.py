"""Pooled connections survive a restart of the server, and are not checked at every use."""

import pytest
from django.db import OperationalError, connection

from marketplace.postgresql import base

pytestmark = pytest.mark.django_db(transaction=True)


def backend() -> int:
    """The id of the server process that answers, on a connection fresh from the pool."""
    connection.close()
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        return cursor.fetchone()[0]


def cut_all_connections():
    """What a restart of the server does to the pool."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
            " AND pid <> pg_backend_pid()"
        )
        with pytest.raises(OperationalError):
            cursor.execute("SELECT pg_terminate_backend(pg_backend_pid())")
    connection.close()


def backends() -> set[int]:
    """Of so many uses that each of the pool's 20 connections has its turn."""
    return {backend() for _ in range(60)}


def test_connections_are_used_again():
    known = backends()
    assert backends() <= known


def test_a_rested_connection_that_was_cut_is_replaced(monkeypatch):
    backend()
    cut_all_connections()
    monkeypatch.setattr(base, "TRUSTED_SECONDS", 0)
    for _ in range(25):
        assert backend()


def test_a_connection_in_use_is_not_asked_again(monkeypatch):
    monkeypatch.setattr(base, "TRUSTED_SECONDS", 60)
    known, asked = backends(), []
    monkeypatch.setattr(base.psycopg.Connection, "execute", lambda *arguments: asked.append(arguments))
    assert backends() <= known
    assert asked == []
    monkeypatch.setattr(base, "TRUSTED_SECONDS", 0)
    assert backends() <= known
    assert len(asked) == 60
