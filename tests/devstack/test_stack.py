"""The embedded stack as a person runs it: ready in order, stopped as a whole, and startable again however it ended.

Most tests put small programs in the place of web server and worker, which take long to load; the last ones do not.
"""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from devstack import parts, processes
from devstack.servers import temporary_home
from marketplace.addresses import ROOT

NAMED = ("DATABASE_URL", "REDIS_URL", "STRIPE_SECRET_KEY")
WHOLE = [sys.executable, "-m", "devstack", "run"]
SMALL = """
import signal, sys
from devstack import __main__, parts, stack
from devstack.parts import Part

WEB = '''
import http.server, sys
polls = 0
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        global polls
        polls += 1
        self.send_response(503 if polls < 3 else 200)
        self.end_headers()
        self.wfile.write(b"poll %d" % polls)
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
'''
python = (sys.executable, "-c")
parts.parts = lambda home, ports: [
    Part("web", (*python, WEB, str(ports.front))),
    Part("worker", (*python, WORKER)),
]
stack.Stack.manage = lambda self, *arguments: []
sys.exit(__main__.main(["run"]))
"""
STEADY = "print('the last words of the worker', flush=True); import time; time.sleep(600)"
MORTAL = "import os, time; open(os.environ['KILN_HOME'] + '/lives', 'a').write('.'); time.sleep(1.5)"
BROKEN = "import sys; print('no model here'); sys.exit(3)"
DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
PARENT = f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {DEAF!r}]); time.sleep(600)"


@dataclass
class Run:
    """A stack in a process group of its own; `said` is what it printed until it was ready."""

    home: Path
    port: int
    process: subprocess.Popen[str]
    said: str = ""

    def wait_ready(self) -> "Run":
        for line in self.process.stdout:
            self.said += line
            if line.startswith("Ctrl-C stops it"):
                return self
        raise AssertionError(f"{self.said}{self.process.stderr.read()}")

    def end(self, number: signal.Signals | None = None) -> tuple[int, str]:
        """Send a signal to the whole group, as a terminal does; exit code and what was printed since."""
        if number:
            os.killpg(self.process.pid, number)
        out, err = self.process.communicate(timeout=60)
        return self.process.returncode, out + err

    def pids(self) -> list[int]:
        """Of every process that belongs to the stack, but for the supervisor."""
        home = self.home.resolve()
        data = (home / "postgres" / "data").resolve()
        servers = processes.serving(data, "postgres") + processes.serving(home / "redis", "redis-server")
        return servers + processes.carrying(parts.mark(home))

    def part(self, name: str) -> int | None:
        """The process id of a part, found by its command."""
        words = {"postgres": "bin/postgres", "redis": "redis-server", "web": "HTTPServer", "worker": "last words"}
        found = [pid for pid in self.pids() if words[name] in command(pid)]
        return found[0] if found else None

    def answers(self) -> bool:
        with (
            contextlib.suppress(OSError),
            urllib.request.urlopen(f"http://127.0.0.1:{self.port}/readyz", timeout=5) as a,
        ):
            return a.status == 200
        return False


Launch = Callable[..., Run]


def command(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text()
    return ""


def outside() -> dict[str, str]:
    """The environment without the test run's own servers."""
    return {name: value for name, value in os.environ.items() if name not in NAMED}


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    """One for all: a new database takes longer than a test, and whatever the last test did must not matter."""
    with temporary_home() as folder:
        yield folder


@pytest.fixture
def launch(home) -> Iterator[Launch]:
    """Starts stacks, and ends what a failed test leaves."""
    runs = []

    def start(command: list[str] = WHOLE, worker: str = "", folder: Path = home, **named: str) -> Run:
        if worker:
            command = [sys.executable, "-c", f"WORKER = {worker!r}\n{SMALL}"]
        port = processes.free_port()
        environment = {**outside(), "KILN_HOME": str(folder), "PORT": str(port), **named}
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        runs.append(Run(folder, port, process))
        return runs[-1]

    yield start
    for run in runs:
        if run.process.poll() is None:
            run.process.terminate()
            run.process.communicate(timeout=60)


def test_it_starts_in_order_and_is_ready_only_when_the_web_server_says_so(launch):
    servers, tables = ["postgres started", "redis started"], ["tables are up to date"]
    needy, ready = ["web started", "worker started"], ["ready in"]
    # what loads for long need not wait for tables that are new, and must wait for those that may be changed
    orders = [[*servers, "stripe started", *tables, *needy], [*servers, *tables, "stripe started", *needy]]
    with temporary_home() as new:
        for order in orders:
            run = launch(worker=STEADY, folder=new).wait_ready()
            told = re.findall(r"^(\w+ started|tables are up to date|ready in)", run.said, re.MULTILINE)
            assert told == order + ready
            with urllib.request.urlopen(f"http://127.0.0.1:{run.port}/readyz") as answer:
                assert answer.read() == b"poll 4"
            run.end(signal.SIGTERM)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_asked_to_stop_it_leaves_nothing(launch, number):
    run = launch(worker=STEADY).wait_ready()
    assert len(run.pids()) >= 4
    assert run.end(number) == (0, "stopped\n")
    assert run.pids() == []
    assert not (run.home / "stack.json").exists()


@pytest.mark.parametrize("name", ["postgres", "redis", "web", "worker"])
def test_a_part_that_dies_is_started_again(launch, name):
    run = launch(worker=STEADY).wait_ready()
    ended = run.part(name)
    os.kill(ended, signal.SIGKILL)
    assert processes.wait_until(lambda: run.part(name) not in (None, ended), 60)
    assert processes.wait_until(run.answers, 60)
    code, said = run.end(signal.SIGTERM)
    assert code == 0
    assert f"{name} was killed by SIGKILL; the end of {run.home.resolve()}" in said
    if name == "worker":
        assert "    the last words of the worker\n" in said
    assert f"{name} is started again in 0.2 s" in said
    assert run.pids() == []


@pytest.mark.deep
def test_a_part_that_dies_again_and_again_is_given_more_time(launch):
    run = launch(worker=MORTAL).wait_ready()
    assert processes.wait_until(lambda: (run.home / "lives").exists() and len(lives(run)) > 4, 60)
    code, said = run.end(signal.SIGTERM)
    assert code == 0
    assert re.findall(r"worker is started again in ([0-9.]+) s", said)[:3] == ["0.2", "0.4", "0.8"]


def lives(run):
    return (run.home / "lives").read_text()


def test_a_part_that_ends_before_it_is_ready_is_named_with_its_last_lines(launch):
    run = launch(worker=BROKEN)
    code, said = run.end()
    assert code == 1
    assert "kiln: worker ended with exit code 3" in said
    assert said.endswith("    no model here\n")
    assert run.pids() == []


def test_asked_twice_it_does_not_wait_for_a_part_that_does_not_listen(launch):
    run = launch(worker=DEAF).wait_ready()
    os.killpg(run.process.pid, signal.SIGTERM)
    os.killpg(run.process.pid, signal.SIGTERM)
    with pytest.raises(subprocess.TimeoutExpired):
        run.process.wait(2)  # both were one request, and the worker has ten seconds
    assert run.end(signal.SIGTERM) == (0, "stopped\n")
    assert run.pids() == []


def test_what_a_part_has_started_ends_too(launch):
    run = launch(worker=PARENT).wait_ready()
    assert run.end(signal.SIGTERM)[0] == 0
    assert run.pids() == []


def test_killed_it_leaves_nothing_that_stops_the_next_start(launch):
    run = launch(worker=PARENT).wait_ready()
    run.process.kill()
    again = launch(worker=STEADY).wait_ready()
    assert again.end(signal.SIGTERM)[0] == 0
    assert again.pids() == []


def test_a_second_one_in_the_same_home_is_refused_and_harms_nothing(launch):
    first = launch(worker=STEADY).wait_ready()
    code, said = launch(worker=STEADY).end()
    assert code == 1
    assert f"in use by a stack that is already running (process {first.process.pid})" in said
    assert first.answers()


def test_a_port_that_is_taken_is_named_and_nothing_is_started(launch):
    first = launch(worker=STEADY).wait_ready()
    with temporary_home() as other:
        code, said = launch(worker=STEADY, folder=other, PORT=str(first.port)).end()
        assert code == 1
        assert f"port {first.port} cannot be used: Address already in use" in said
        assert not (other / "postgres").exists()
    assert first.answers()


def test_a_database_and_a_broker_that_are_named_are_used_and_neither_is_started(launch):
    named = {name: os.environ[name] for name in ("DATABASE_URL", "REDIS_URL")}  # the test run's own
    with temporary_home() as other:
        run = launch(worker=STEADY, folder=other, **named).wait_ready()
        assert not {"postgres started", "redis started"} & set(run.said.splitlines())
        assert not (other / "postgres").exists()
        assert not (other / "redis").exists()
        seen = Path(f"/proc/{run.part('worker')}/environ").read_bytes().split(b"\0")
        assert all(f"{name}={url}".encode() in seen for name, url in named.items())
        run.end(signal.SIGTERM)


def test_a_double_of_stripe_runs_and_is_shouted_about_where_no_key_is_named(launch):
    run = launch(worker=STEADY).wait_ready()
    url = re.search(r"payments go to a DOUBLE of Stripe at (\S+), no money moves", run.said)[1]
    assert f"a DOUBLE of Stripe at {url} (STRIPE_SECRET_KEY is not set)\n" in run.said
    seen = Path(f"/proc/{run.part('worker')}/environ").read_bytes().decode().split("\0")
    found = dict(entry.partition("=")[::2] for entry in seen)
    assert (found["STRIPE_API_BASE"], found["STRIPE_SECRET_KEY"]) == (url, "sk_test_double")
    beside = "import marketplace.settings as s; print(s.STRIPE_API_BASE, *s.STRIPE_WEBHOOK_SECRETS)"
    command = [sys.executable, "-c", beside]
    environment = {**outside(), "KILN_HOME": str(run.home)}
    told = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout
    assert told.split() == [url, found["STRIPE_WEBHOOK_SECRET"]]


def test_where_a_key_to_stripe_is_named_nothing_of_the_double_starts(launch):
    run = launch(worker=STEADY, STRIPE_SECRET_KEY="sk_test_mine").wait_ready()
    assert "stripe started" not in run.said
    assert "DOUBLE" not in run.said
    seen = Path(f"/proc/{run.part('worker')}/environ").read_bytes()
    assert b"STRIPE_SECRET_KEY=sk_test_mine" in seen
    assert b"STRIPE_API_BASE" not in seen


@pytest.mark.deep
def test_two_whole_stacks_side_by_side_end_each_for_itself(launch):
    with temporary_home() as other:
        killed, stopped = launch(), launch(folder=other)
        killed.wait_ready(), stopped.wait_ready()
        key = customer(killed)
        assert balance(killed, key) == "5"
        assert balance(stopped, key) == "401"
        killed.process.kill()
        assert processes.wait_until(lambda: not killed.pids(), 20.0)
        assert stopped.answers()
        assert stopped.end(signal.SIGTERM) == (0, "stopped\n")
        assert stopped.pids() == []


def customer(run: Run) -> str:
    """A customer with five Tokens in that stack, made as its welcome says; the API key."""
    command = next(line for line in run.said.splitlines() if "create_customer" in line)
    command = command.replace("--grant 100", "--grant 5")
    done = subprocess.run(command, shell=True, cwd=ROOT, env=outside(), capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[-1]


def balance(run: Run, key: str) -> str:
    """Available Tokens, or the status of the refusal."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{run.port}/v1/balance", headers={"Authorization": f"Bearer {key}"}
    )
    try:
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)["available"]
    except urllib.error.HTTPError as refusal:
        return str(refusal.code)
