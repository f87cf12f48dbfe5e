"""The balance and the statement, also as CSV."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from django.db import connection
from django.http import StreamingHttpResponse
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from billing.tokens import debts, ledger, lots
from billing.tokens.ledger import Entry
from marketplace.accounts import caps
from marketplace.accounts.authentication import caller
from marketplace.accounts.models import Account
from marketplace.api.fields import Moment
from marketplace.api.money import examples, files, schemas
from marketplace.api.money.schemas import BalanceBody, KindQuery, TransferBody, TransferList, TransferQuery
from marketplace.api.problems import invalid

CSV_PAGE = 1000


class Balance(APIView):
    @extend_schema(responses={200: BalanceBody}, summary="See your Tokens")
    def get(self, request: Request) -> Response:
        """`total` is `available` plus `held`, and what is left of the `lots` together; they are spent in this order.

        What has expired is gone; only what was held at its expiry stays, until its job ends.
        `expiring_soon` says which Tokens expire in the next 30 days. While there are `debts`, the account is `frozen`:
        it buys nothing until they are settled. `account` and `key` say what the whole account and what this key
        spent today and this month, in the account's time zone, and what their spend caps leave.
        """
        account_id, key_id = caller(request).account_id, caller(request).key_id
        found = lots.position(account_id)
        budgets = caps.budgets(account_id, key_id)
        return Response(schemas.show_balance(found, debts.of(account_id), budgets, key_id))


class Transfers(APIView):
    @extend_schema(
        parameters=[TransferQuery],
        responses={200: TransferList},
        examples=examples.statement,
        summary="See your statement, newest first",
    )
    def get(self, request: Request) -> Response:
        """Everything that ever came in or went out; the amounts add up to the balance's `total`.

        `balance` is what the wallet had after each. Pages fit together also while new transfers come.
        """
        query = TransferQuery(data=request.query_params.dict())
        query.is_valid(raise_exception=True)
        limit, cursor = query.validated_data["limit"], query.validated_data.get("cursor")
        if cursor is not None and not (cursor.isascii() and cursor.isdigit() and len(cursor) < 19):
            raise invalid("cursor", "Must be the next_cursor of an earlier answer.")
        kinds = query.validated_data.get("kind")
        rows = ledger.statement(caller(request).account_id, int(cursor) if cursor else None, limit + 1, kinds)
        following = str(rows[limit - 1].id) if len(rows) > limit else None
        return Response(TransferList.show(rows[:limit], next_cursor=following))


class TransfersCsv(APIView):
    renderer_classes = [files.Csv]

    @extend_schema(
        parameters=[KindQuery],
        responses={(200, "text/csv"): str},
        summary="Download your whole statement, newest first",
    )
    def get(self, request: Request) -> StreamingHttpResponse:
        """The columns are those of a transfer, with times in the account's time zone.

        Texts that a spreadsheet would take for a formula begin with `'`.
        """
        query = KindQuery(data=request.query_params.dict())
        query.is_valid(raise_exception=True)
        account = Account.objects.get(id=caller(request).account_id)
        lines = csv_lines(account.id, query.validated_data.get("kind"), ZoneInfo(account.time_zone))
        return files.download(StreamingHttpResponse(lines, content_type=files.Csv.media_type), "transfers.csv")


def csv_lines(owner: UUID, kinds: list[str] | None, zone: ZoneInfo) -> Iterator[str]:
    """Yield the statement page by page: a slow reader occupies neither a snapshot nor a connection meanwhile."""
    line = csv.writer(Echo())
    connection.close()
    yield line.writerow(TransferBody().fields)
    before, more = None, True
    while more:
        found = ledger.statement(owner, before, CSV_PAGE, kinds)
        connection.close()
        more = len(found) == CSV_PAGE
        yield "".join(line.writerow(map(files.plain, _cells(row, zone))) for row in found)
        before = found[-1].id if found else None


def _cells(row: Entry, zone: ZoneInfo) -> Iterable[Any]:
    cells = TransferBody.show(row)
    cells["created_at"] = Moment.show(row.created_at, zone)
    return cells.values()


class Echo:
    """A file for `csv` whose `write` returns what is written."""

    def write(self, text: str) -> str:
        return text
