"""Real PostgreSQL and Redis for the whole run, started before Django reads its settings; how deep the tests go.

With several processes (pytest-xdist) each has servers of its own, so that no test sees another one's.
"""

import contextlib
import gc
import os
from collections.abc import Generator

import django
import hypothesis
import pytest

from devstack import servers

# examples of a property; tests that take long ask for a share of them
FULL, QUICK = 100, 20
MOST_PROCESSES = 8

_run = contextlib.ExitStack()
_processes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))

# Before anything imports torch: no more threads for arithmetic than there are cores, none of which waits in a loop.
os.environ["OMP_NUM_THREADS"] = str(max(1, len(os.sched_getaffinity(0)) // _processes))
os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
# No test asks the hub, nor anything that it starts.
os.environ["HF_HUB_OFFLINE"] = "1"
# Until the tests are collected: nothing that is imported goes again.
gc.disable()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", action="store_true", help="the full depth: all examples, all rounds (CI runs it)")
    parser.addoption("--stories", type=int, help="how many stories of payments to tell (50; 2,000 at the full depth)")
    parser.addoption("--picture-minutes", type=float, help="for how many more minutes to read damaged pictures (0)")


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """A process a core; none beside this one for tests that are named one by one, so that one can look into them."""
    return 0 if any("::" in path for path in config.args) else min(len(os.sched_getaffinity(0)), MOST_PROCESSES)


def pytest_configure(config: pytest.Config) -> None:
    for name, count in (("full", FULL), ("quick", QUICK)):
        hypothesis.settings.register_profile(name, max_examples=count, deadline=None)
    hypothesis.settings.load_profile("full" if config.getoption("--full") else "quick")
    if config.getoption("numprocesses", 0) and not hasattr(config, "workerinput"):
        return  # the others run the tests
    home = _run.enter_context(servers.temporary_home())
    found = _run.enter_context(servers.running(home, durable=False))
    os.environ |= {
        "DATABASE_URL": found.database_url,
        "REDIS_URL": found.redis_url,
        "KILN_HOME": str(home),
        "KILN_CALIBRATION": str(home / "calibration"),
        "DJANGO_SETTINGS_MODULE": "marketplace.settings",
    }
    django.setup()


def pytest_sessionfinish() -> None:
    _run.close()  # before the first process is told that this one has ended: it does not wait long after that


def pytest_unconfigure() -> None:
    _run.close()


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that may take long begin first, some in each process, so that no process is left alone with one.

    xdist gives each process a part of the list, in its order; who is ready takes from the end of another's.
    """
    limits = {item: getattr(item.get_closest_marker("timeout"), "args", (0,))[0] for item in items}
    long = sorted((item for item in items if limits[item]), key=lambda item: -limits[item])
    short = [item for item in items if not limits[item]]
    ends = [len(short) * part // _processes for part in range(_processes + 1)]
    items[:] = [
        item for part in range(_processes) for item in (*long[part::_processes], *short[ends[part] : ends[part + 1]])
    ]


def _is_too_deep(item: pytest.Item) -> bool:
    """Whether a test takes too long for every run: it runs at the full depth, or where it is named."""
    by_name = any("::" in path for path in item.config.args)
    return bool(item.get_closest_marker("deep")) and not by_name and not item.config.getoption("--full")


def pytest_runtest_setup(item: pytest.Item) -> None:
    if _is_too_deep(item):
        pytest.skip("takes long: with --full, or by its name")
    if item.get_closest_marker("root") and os.geteuid() != 0:
        pytest.skip("only root can act as other users")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """In CI a test that was skipped has failed: what it needs must be installed there."""
    report = yield
    needless = hasattr(report, "wasxfail") or item.get_closest_marker("root") or _is_too_deep(item)
    if report.skipped and not needless and os.environ.get("CI") == "true":
        report.outcome, report.longrepr = "failed", f"skipped in CI: {report.longrepr[2]}"
    return report


@pytest.fixture(scope="session")
def full(pytestconfig: pytest.Config) -> bool:
    """Whether the tests run at their full depth."""
    return pytestconfig.getoption("--full")
