"""Receipts of jobs, and monthly invoices as PDF."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

from django.http import HttpResponse
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from billing.models import Hold, Transfer
from billing.payments import invoices
from billing.tokens import lots
from marketplace.accounts.authentication import caller
from marketplace.accounts.models import Account
from marketplace.api import examples, representations
from marketplace.api.errors import not_found
from marketplace.api.money import files, invoice_pdf
from marketplace.api.serializers import InvoiceList, ReceiptBody
from marketplace.jobs.models import Job


class Receipt(APIView):
    @extend_schema(responses={200: ReceiptBody}, examples=examples.receipt, summary="See what a job cost, and why")
    def get(self, request: Request, job_id: UUID) -> Response:
        """Each factor of the price, what became of each picture, the hold, and the lots that paid.

        While the job is not over, nothing is charged and there are no `images` yet.
        """
        job = Job.objects.filter(account_id=caller(request).account_id, id=job_id).first()
        if job is None:
            raise not_found("job")
        cost = lots.cost(job.id)
        moves = Transfer.objects.filter(reference=job.id, kind__in=representations.OF_JOBS).order_by("id")
        return Response(representations.receipt(job, Hold.objects.get(reference=job.id), list(moves), cost))


class Invoices(APIView):
    @extend_schema(responses={200: InvoiceList}, summary="List your monthly invoices, newest first")
    def get(self, request: Request) -> Response:
        account_id = caller(request).account_id
        return Response({"data": [representations.invoice(each) for each in invoices.months(account_id)]})


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
