"""Real PostgreSQL and Redis for the whole run, started before Django reads its settings."""

import contextlib
import os

import django

from devstack import servers

_run = contextlib.ExitStack()


def pytest_configure() -> None:
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


def pytest_unconfigure() -> None:
    _run.close()
