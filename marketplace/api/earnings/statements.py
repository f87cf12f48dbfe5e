"""A maker's year as CSV and PDF, and all that was ever earned as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from uuid import UUID
from zoneinfo import ZoneInfo

from django.db import connection
from django.http import HttpResponse, StreamingHttpResponse
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.views import APIView

from billing.amounts import format_money, format_tokens
from billing.tokens import earned, maker_years
from billing.tokens.maker_years import Totals
from marketplace.accounts.authentication import caller
from marketplace.accounts.models import Account
from marketplace.api.earnings import year_pdf
from marketplace.api.fields import Moment
from marketplace.api.money import files
from marketplace.api.money.views import Echo

PAGE = 1000
USES = ["id", "use", "created_at", "amount", "taken_back", "away", "state", "currency", "worth"]
YEAR = ["month", "currency", "earned", "taken_back", "worth", "exchanged", "exchanged_worth", "paid_out_tokens",
        "paid_out"]  # fmt: skip


class EarningsCsv(APIView):
    renderer_classes = [files.Csv]

    @extend_schema(responses={(200, "text/csv"): str}, summary="Download all that you earned, newest first")
    def get(self, request: Request) -> StreamingHttpResponse:
        """A line a use and currency, with times in the account's time zone."""
        account = _account(request)
        lines = _uses(account.id, ZoneInfo(account.time_zone))
        return files.download(StreamingHttpResponse(lines, content_type=files.Csv.media_type), "earnings.csv")


class YearCsv(APIView):
    renderer_classes = [files.Csv]

    @extend_schema(responses={(200, "text/csv"): str}, summary="Download a year of your earnings as CSV")
    def get(self, request: Request, year: str) -> HttpResponse:
        """Month by month and in sum, by currency, in the account's time zone; lines without a month are the year's."""
        account = _account(request)
        file = io.StringIO()
        line = csv.writer(file)
        line.writerow(YEAR)
        for each in maker_years.of(account.id, year, account.time_zone):
            line.writerow(map(files.plain, _cells(each)))
        answer = HttpResponse(file.getvalue(), content_type=files.Csv.media_type)
        return files.download(answer, f"earnings-{year}.csv")


class YearPdf(APIView):
    renderer_classes = [files.Pdf]

    @extend_schema(responses={(200, "application/pdf"): bytes}, summary="Download a year of your earnings as PDF")
    def get(self, request: Request, year: str) -> HttpResponse:
        """The same as the CSV, to be printed."""
        account = _account(request)
        rows = [_cells(each) for each in maker_years.of(account.id, year, account.time_zone)]
        body = year_pdf.draw(year, f"{account.id}, {account.time_zone}", rows)
        return files.download(HttpResponse(body, content_type=files.Pdf.media_type), f"earnings-{year}.pdf")


def _account(request: Request) -> Account:
    account: Account = Account.objects.get(id=caller(request).account_id)
    return account


def _uses(owner: UUID, zone: ZoneInfo) -> Iterator[str]:
    """Yield the lines page by page: a slow reader occupies no connection meanwhile."""
    line = csv.writer(Echo())
    connection.close()
    yield line.writerow(USES)
    before, more = None, True
    while more:
        found = earned.page(owner, before, PAGE)
        connection.close()
        more = len(found) == PAGE
        for each in found:
            start = [each.id, each.use, Moment.show(each.created_at, zone)]
            sums = [*map(format_tokens, (each.amount, each.back, each.away)), each.state]
            for currency, minor in sorted(each.worth.items()) or [("", 0)]:
                money = [currency, format_money(minor, currency) if currency else ""]
                yield line.writerow(map(files.plain, [*start, *sums, *money]))
        before = found[-1].id if found else None


def _cells(row: Totals) -> list[str]:
    def money(minor: int) -> str:
        return format_money(minor, row.currency) if row.currency else ""

    return [
        row.month, row.currency, format_tokens(row.earned), format_tokens(row.taken_back), money(row.worth_minor),
        format_tokens(row.exchanged), money(row.exchanged_minor), format_tokens(row.paid_out),
        money(row.paid_out_minor),
    ]  # fmt: skip
