"""The name of whoever acts, and records of acts that change no table. All other records are made by the database.

Reading and proving the audit belong in `proof`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.db import connection, transaction

from marketplace.accounts.models import Person

_RECORD = "INSERT INTO audit_record (actor, act, object, details) VALUES (%s, %s, %s, %s)"


@contextmanager
def acting(actor: str) -> Iterator[None]:
    """Open a transaction whose records name this actor; without it they name the database's role."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SELECT set_config('kiln.actor', %s, true)", [actor])
        yield


def name_of(person: Person) -> str:
    return f"person {person.pk} {person.email}"


def record(actor: str, act: str, object: str, details: dict[str, Any]) -> None:
    """Write one record. Inside a transaction it must come last, since all other records wait until that ends."""
    with connection.cursor() as cursor:
        cursor.execute(_RECORD, [actor, act, object, json.dumps(details)])
