"""Cursor pages over rows in descending order of their id."""

from __future__ import annotations

from typing import Any, TypeVar
from uuid import UUID

from django.db.models import Model, QuerySet

from marketplace.api.bodies import StrictSerializer
from marketplace.api.fields import Count, Text
from marketplace.api.problems import invalid

Row = TypeVar("Row", bound=Model)


ID = "^[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}$"


class ListQuery(StrictSerializer):
    limit = Count(default=20, min_value=1, max_value=100)
    cursor = Text(required=False, max_length=64, pattern=ID, help_text="`next_cursor` of the page before.")


def page(rows: QuerySet[Row], query: dict[str, Any]) -> tuple[list[Row], str | None]:
    """Return at most `limit` rows with ids below the cursor, and the next page's cursor, None at the end."""
    if cursor := query.get("cursor"):
        rows = rows.filter(id__lt=uuid(cursor))
    found = list(rows[: query["limit"] + 1])
    more = len(found) > query["limit"]
    found = found[: query["limit"]]
    return found, str(found[-1].pk) if more else None


def uuid(cursor: str) -> UUID:
    try:
        return UUID(cursor)
    except ValueError as error:
        raise invalid("cursor", "Must be the next_cursor of an earlier answer.") from error
