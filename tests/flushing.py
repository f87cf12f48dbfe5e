"""Lets Django flush the tables between transactional tests, although triggers refuse to delete from the books.

The flush runs as a replica would, past the triggers, and puts back the rows that the migrations made, so
every test begins with the mint, the platform, the price list, the packs, the tiers and an audit that has begun. It
deletes, which takes a tenth of the time that truncating takes while there are few rows, and leaves the permissions,
which are always the same. Imports wait: this is read before Django.
"""

from importlib import import_module
from typing import Any

import pytest

KEPT = {"django_content_type", "auth_permission", "django_migrations"}


@pytest.fixture(scope="session", autouse=True)
def flush_keeps_opening_rows() -> None:
    from django.db import connection, transaction
    from django.test import TransactionTestCase

    opening_rows = import_module("billing.migrations.0002_guards").OPENING_ROWS
    more_operations = import_module("billing.migrations.0019_more_operations").MORE_OPERATIONS
    packs = import_module("billing.migrations.0006_packs").FIRST_PACKS
    tiers = import_module("marketplace.accounts.migrations.0005_tiers").FIRST_TIERS
    trainings = import_module("lora.migrations.0002_tiers").OPENING_ROWS
    audit = import_module("marketplace.audit.migrations.0001_chain").BEGINNING

    def flush(_: Any) -> None:
        with transaction.atomic(), connection.cursor() as cursor:
            tables = [f'"{name}"' for name in connection.introspection.table_names(cursor) if name not in KEPT]
            past_triggers, again = (f"SET LOCAL session_replication_role = {role}" for role in ("replica", "origin"))
            # whoever still writes is waited for
            empty = [f"LOCK TABLE {', '.join(tables)}", *(f"DELETE FROM {table}" for table in tables)]
            cursor.execute("; ".join([past_triggers, *empty]))
            for statement in (opening_rows, more_operations, packs, tiers, trainings, again, audit):
                cursor.execute(statement)

    TransactionTestCase._fixture_teardown = flush
