"""The double as a command."""

import subprocess
import sys

import pytest

from marketplace.addresses import ROOT

COMMAND = [sys.executable, "-m", "devstack.stripe"]


def run(*options):
    return subprocess.run([*COMMAND, *options], cwd=ROOT, capture_output=True, text=True, timeout=30, check=False)


def test_help_says_all():
    told = run("--help").stdout
    for word in ("--webhook-secret", "--data", "/_control/disputes/{id}/close", "timeout_after", "reorder"):
        assert word in told


@pytest.mark.parametrize(
    ("options", "code", "says"),
    [
        (["--webhook-url", "http://127.0.0.1:1/"], 2, "needs a --webhook-secret"),
        (["--port", "0", "--data", "/nowhere/stripe.sqlite"], 1, "unable to open database file"),
        (["--port", "0", "--data", __file__], 1, "not a database"),
    ],
)
def test_it_says_why_it_does_not_start(options, code, says):
    ended = run(*options)
    assert (ended.returncode, says in ended.stderr) == (code, True)
    assert "Traceback" not in ended.stderr


def test_a_taken_port_is_named(double):
    ended = run("--port", double.url.rpartition(":")[2])
    assert ended.returncode == 1
    assert "in use" in ended.stderr
