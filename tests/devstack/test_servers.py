"""The embedded PostgreSQL and Redis: data that stay, and nothing left behind however the end comes."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import redis

from devstack import processes
from devstack.postgres import SHARED, Postgres
from devstack.servers import Servers, temporary_home
from marketplace.addresses import ROOT, Addresses

SUPERVISOR = """
import json, sys, time
from pathlib import Path
from devstack.servers import Servers

servers = Servers(Path(sys.argv[1]), durable=False)
found = servers.start()
started = [server.running().pid for server in servers.started]
print(json.dumps([found.database_url, found.redis_url, *started]), flush=True)
time.sleep(600)
"""


@pytest.fixture
def home() -> Iterator[Path]:
    with temporary_home() as folder:
        yield folder


@pytest.fixture
def servers(home) -> Iterator[Servers]:
    made = Servers(home, durable=False)
    yield made
    made.stop()


def write(found: Addresses, word: str) -> None:
    with psycopg.connect(found.database_url) as connection, redis.Redis.from_url(found.redis_url) as client:
        connection.execute("CREATE TABLE notes (word text)")
        connection.execute("INSERT INTO notes VALUES (%s)", [word])
        client.set("word", word)


def words(found: Addresses) -> list[str]:
    with psycopg.connect(found.database_url) as connection, redis.Redis.from_url(found.redis_url) as client:
        return [connection.execute("SELECT word FROM notes").fetchone()[0], client.get("word").decode()]


def pids(servers: Servers) -> list[int]:
    return [server.running().pid for server in servers.started]


def alive(pid: int) -> bool:
    """Whether a process still runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def gone(*ids: int) -> bool:
    return processes.wait_until(lambda: not any(alive(pid) for pid in ids), 10.0)


def test_data_survive_a_stop_and_a_start(servers):
    write(servers.start(), "kept")
    first = pids(servers)
    servers.stop()
    assert not any(alive(pid) for pid in first)
    assert words(servers.start()) == ["kept", "kept"]


def test_a_stop_leaves_no_process_even_with_a_client_connected(servers, home):
    found = servers.start()
    client = psycopg.connect(found.database_url)
    data = (home / "postgres" / "data").resolve()
    assert len(processes.serving(data, "postgres")) > 1
    servers.stop()
    assert processes.serving(data, "postgres") == []
    client.close()


def test_servers_that_were_killed_start_again_with_their_data(servers, home):
    write(servers.start(), "kept")
    killed = pids(servers)
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    again = Servers(home, durable=False)
    try:
        assert words(again.start()) == ["kept", "kept"]
        assert not any(alive(pid) for pid in killed)
    finally:
        again.stop()


def test_a_pid_file_that_names_a_stranger_does_not_stop_the_start(servers, home):
    write(servers.start(), "kept")
    pid_file = home / "postgres" / "data" / "postmaster.pid"
    stale = pid_file.read_text().splitlines()
    servers.stop()
    pid_file.write_text("\n".join([str(os.getpid()), *stale[1:]]) + "\n")
    assert words(servers.start()) == ["kept", "kept"]


def test_servers_end_with_a_supervisor_that_was_killed_and_start_again(servers, home):
    with subprocess.Popen(
        [sys.executable, "-c", SUPERVISOR, home], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as supervisor:
        database_url, redis_url, *started = json.loads(supervisor.stdout.readline())
        write(Addresses(database_url, redis_url), "kept")
        supervisor.kill()
    assert gone(*started)
    assert words(servers.start()) == ["kept", "kept"]


def test_a_start_at_once_after_the_supervisor_was_killed_waits_for_its_servers(servers, home):
    with subprocess.Popen(
        [sys.executable, "-c", SUPERVISOR, home], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as supervisor:
        database_url, redis_url, *started = json.loads(supervisor.stdout.readline())
        write(Addresses(database_url, redis_url), "kept")
        supervisor.kill()
        found = servers.start()
    assert words(found) == ["kept", "kept"]
    assert not any(alive(pid) for pid in started)


def test_two_stand_side_by_side(servers):
    with temporary_home() as other_home:
        other = Servers(other_home, durable=False)
        try:
            here, there = servers.start(), other.start()
            write(here, "here")
            write(there, "there")
            assert words(here) == ["here", "here"]
            assert words(there) == ["there", "there"]
        finally:
            other.stop()


def test_nobody_gets_in_without_the_password(servers):
    found = servers.start()
    password = psycopg.conninfo.conninfo_to_dict(found.database_url)["password"]
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(found.database_url.replace(password, "guess"))
    anonymous = redis.Redis.from_url("redis://" + found.redis_url.partition("@")[2])
    with anonymous as client, pytest.raises(redis.AuthenticationError):
        client.ping()


def test_what_is_named_is_not_started(home):
    servers = Servers(home, durable=False, named={"DATABASE_URL": "postgresql://db.example/kiln"})
    try:
        found = servers.start()
        assert found.database_url == "postgresql://db.example/kiln"
        assert [type(server).__name__ for server in servers.started] == ["Redis"]
        with redis.Redis.from_url(found.redis_url) as client:
            assert client.ping()
    finally:
        servers.stop()


@pytest.mark.root
def test_below_a_closed_folder_root_keeps_the_data_elsewhere_and_opens_nothing(home):
    closed = home / "closed"
    closed.mkdir(0o700)
    server = Postgres(closed / "postgres", durable=False)
    try:
        with psycopg.connect(server.start()) as connection:
            connection.execute("CREATE TABLE notes (word text)")
        server.stop()
        with psycopg.connect(server.start()) as connection:
            assert connection.execute("SELECT count(*) FROM notes").fetchone() == (0,)
    finally:
        server.stop()
    data = (closed / "postgres" / "data").resolve()
    assert data.is_relative_to(SHARED)
    assert closed.stat().st_mode & 0o777 == 0o700
    server.erase()
    assert not data.parent.exists()


@pytest.mark.root
def test_an_ordinary_user_starts_them_too():
    child = os.fork()  # a new interpreter may lie where nobody cannot reach it
    if not child:
        os._exit(started_as_nobody())
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def started_as_nobody() -> int:
    """Become `nobody`, start both servers and look whom they and their data belong to; an exit code."""
    os.setgroups([])
    os.setgid(processes.NOBODY)
    os.setuid(processes.NOBODY)
    with temporary_home() as home, contextlib.ExitStack() as stops:
        servers = Servers(home, durable=False)
        stops.callback(servers.stop)
        write(servers.start(), "kept")
        owners = {os.stat(f"/proc/{pid}").st_uid for pid in pids(servers)}
        owners.add((home / "postgres" / "data").stat().st_uid)
    return 0 if owners == {processes.NOBODY} else 1


HOLDER = """
import time
from devstack.servers import temporary_home

with temporary_home() as home:
    (home / "postgres" / "data").mkdir(parents=True)
    print(home, flush=True)
    time.sleep(600)
"""


def test_what_a_killed_run_left_is_deleted_by_the_next_one_and_what_is_in_use_is_not(tmp_path):
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    command = [sys.executable, "-c", HOLDER]
    runs = [subprocess.Popen(command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    killed, alive = (Path(run.stdout.readline().strip()) for run in runs)
    runs[0].kill()
    runs[0].wait()
    stranger = tmp_path / "kiln-of-mine"
    stranger.mkdir()
    try:
        with subprocess.Popen(command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, text=True) as following:
            assert Path(following.stdout.readline().strip()).is_dir()
            assert not killed.exists()
            assert alive.is_dir()
            assert stranger.is_dir()
            following.send_signal(signal.SIGINT)
    finally:
        runs[1].kill()
        runs[1].wait()
