"""Monthly invoices, listed and as PDF."""

from __future__ import annotations

from datetime import UTC, datetime

from django.http import HttpResponse
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from billing.payments import invoices
from marketplace.accounts.authentication import caller
from marketplace.accounts.models import Account
from marketplace.api.bodies import Body
from marketplace.api.errors import not_found
from marketplace.api.fields import Flag, Text
from marketplace.api.money import files, invoice_pdf


class InvoiceBody(Body):
    month = Text(of=lambda invoice: f"{invoice.first:%Y-%m}", help_text='e.g. "2026-11"; months end by UTC.')
    number = Text()
    final = Flag(of="row.is_final", help_text="False while the month is not over.")
    url = Text(of=lambda invoice: f"/v1/invoices/{invoice.first:%Y-%m}.pdf", help_text="The PDF.")


class InvoiceList(Body):
    data = InvoiceBody(many=True, of="row")  # type: ignore[assignment]


class Invoices(APIView):
    @extend_schema(responses={200: InvoiceList}, summary="List your monthly invoices, newest first")
    def get(self, request: Request) -> Response:
        return Response(InvoiceList.show(invoices.months(caller(request).account_id)))


class InvoicePdf(APIView):
    renderer_classes = [files.Pdf]

    @extend_schema(responses={(200, "application/pdf"): bytes}, summary="Download a monthly invoice")
    def get(self, request: Request, month: str) -> HttpResponse:
        """What was paid in the month, and what became of the Tokens. Until the month is over it says so far."""
        account = Account.objects.select_related("owner").get(id=caller(request).account_id)
        first = datetime.strptime(month, "%Y-%m").replace(tzinfo=UTC)
        found = next((each for each in invoices.months(account.id) if each.first == first), None)
        if found is None:
            raise not_found("invoice")
        body = invoice_pdf.draw(found, invoices.figures(account.id, found), account.name, account.owner.email)
        name = f"invoice-{found.number}.pdf"
        return files.download(HttpResponse(body, content_type=files.Pdf.media_type), name)
