"""Pooled connections survive a restart of the server, are not checked at every use, and wait for no lock for long."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest
from django.db import OperationalError, connection, transaction

from billing.models import Wallet
from marketplace.addresses import ROOT
from marketplace.jobs.models import Job
from marketplace.postgresql import base
from tests.threads import database_setting

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


@pytest.fixture
def locked(alice):
    """Alice's wallet is locked by a process that hangs."""
    hangs, end = Event(), Event()

    def hang():
        with transaction.atomic():
            Wallet.objects.select_for_update(no_key=True).get(owner=alice.account.id)
            hangs.set()
            assert end.wait(60)
        connection.close()

    with ThreadPoolExecutor(1) as pool:
        hung = pool.submit(hang)
        assert hangs.wait(20)
        yield
        end.set()
        hung.result()


ORDER = {"prompt": "a red circle", "cache": "off"}


def test_a_request_that_waits_for_a_lock_is_told_to_come_again_and_has_bought_nothing(alice, locked):
    with database_setting("lock_timeout", "50ms"):
        answer = alice.post("/v1/jobs", ORDER)
    assert (answer.status_code, answer.json()["error"]["code"], answer["Retry-After"]) == (503, "unavailable", "2")
    assert not Job.objects.exists()
    assert alice.balance == (1_000_000, 0)
    assert alice.get("/v1/balance").status_code == 200, "reading waits for nobody"


def test_the_web_servers_alone_wait_for_no_lock_for_longer_than_three_seconds():
    show = "with connection.cursor() as cursor: cursor.execute('SHOW lock_timeout'); print(*cursor.fetchone())"
    served = {"import marketplace.wsgi": "3s", "import marketplace.asgi": "3s"}
    for first, expected in (*served.items(), ("import django; django.setup()", "0")):
        program = f"{first}\nfrom django.db import connection\n{show}"
        said = subprocess.check_output([sys.executable, "-c", program], cwd=ROOT, text=True)
        assert said.split()[-1] == expected
