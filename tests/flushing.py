"""Lets Django flush the tables between transactional tests, although triggers refuse to truncate the books.

The flush runs as a replica would, past the triggers, and puts back the rows that the migrations made, so
every test begins with the mint, the platform, price list 1, the packs and an audit that has begun. Imports wait:
this is read before Django.
"""

from importlib import import_module
from typing import Any

import pytest


@pytest.fixture(scope="session", autouse=True)
def flush_keeps_opening_rows() -> None:
    operations = import_module("django.db.backends.postgresql.operations").DatabaseOperations
    opening_rows = import_module("billing.migrations.0002_guards").OPENING_ROWS
    packs = import_module("billing.migrations.0006_packs").FIRST_PACKS
    audit = import_module("marketplace.audit.migrations.0001_chain").BEGINNING

    def flush(self: Any, statements: list[str]) -> None:
        past_triggers, again = (f"SET LOCAL session_replication_role = {role}" for role in ("replica", "origin"))
        super(operations, self).execute_sql_flush([past_triggers, *statements, opening_rows, packs, again, audit])

    operations.execute_sql_flush = flush
