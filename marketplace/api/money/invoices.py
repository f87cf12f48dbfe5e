"""Months with their invoices and credit notes, listed and as PDF."""

from __future__ import annotations

from django.http import HttpResponse
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from billing.amounts import format_money
from billing.models import Invoice, Month
from billing.payments import invoices
from marketplace.accounts import customers
from marketplace.accounts.authentication import caller
from marketplace.accounts.models import Account
from marketplace.api.bodies import Body
from marketplace.api.fields import Choice, Flag, Moment, Text
from marketplace.api.money import files, invoice_pdf
from marketplace.api.problems import not_found


class DocumentBody(Body):
    kind = Choice(choices=Invoice.Kind.choices)
    number = Text(of=lambda row: row.name or None, allow_null=True, help_text="Null until the month is closed.")
    currency = Text()
    total = Text(of=lambda row: format_money(row.total_minor, row.currency), help_text="With the tax.")
    tax = Text(
        of=lambda row: None if row.tax_minor is None else format_money(row.tax_minor, row.currency),
        allow_null=True,
        help_text="Of the total; null if Stripe reported none.",
    )


# the row is a month and its documents
class MonthBody(Body):
    month = Text(of="row[0].name", help_text='e.g. "2026-11"')
    time_zone = Text(of="row[0].zone", help_text="In which the month ends.")
    begins_at = Moment(of="row[0].first")
    ends_at = Moment(of="row[0].end")
    final = Flag(of="row[0].is_final", help_text="True once the month is closed; from then on nothing of it changes.")
    documents = DocumentBody(many=True, of="row[1]", help_text="One of a kind and currency.")
    url = Text(of=lambda row: f"/v1/invoices/{row[0].name}.pdf", help_text="All of it as PDF.")


class MonthList(Body):
    data = MonthBody(many=True, of="row")  # type: ignore[assignment]


class Invoices(APIView):
    @extend_schema(responses={200: MonthList}, summary="List your months with their invoices, newest first")
    def get(self, request: Request) -> Response:
        """A month is closed a few minutes after it ended in the account's time zone.

        For each currency it has an invoice of the payments, and a credit note of what was refunded or disputed.
        """
        return Response(MonthList.show(_months(_account(request))))


class InvoicePdf(APIView):
    renderer_classes = [files.Pdf]

    @extend_schema(responses={(200, "application/pdf"): bytes}, summary="Download a month's invoices")
    def get(self, request: Request, month: str) -> HttpResponse:
        """Invoices, credit notes and what became of the Tokens. Until the month is closed it says so far."""
        account = _account(request)
        found = next((each for each in _months(account) if each[0].name == month), None)
        if found is None:
            raise not_found("invoice")
        name = f"invoice-{month}-{account.id.hex[-12:]}.pdf"
        body = invoice_pdf.draw(*found)
        return files.download(HttpResponse(body, content_type=files.Pdf.media_type), name)


def _account(request: Request) -> Account:
    account: Account = Account.objects.select_related("owner").get(id=caller(request).account_id)
    return account


def _months(account: Account) -> list[tuple[Month, list[Invoice]]]:
    return invoices.months(account.id, customers.as_invoiced(account))
