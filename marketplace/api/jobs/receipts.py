"""What a job cost, and why."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from billing.amounts import format_money, format_tokens
from billing.models import Hold, Lot, Transfer
from billing.prices import pricing
from billing.tokens import lots
from billing.tokens.lots import Cost
from marketplace.accounts.authentication import caller
from marketplace.api.bodies import Body
from marketplace.api.fields import Choice, Flag, Identifier, Moment, Object, Text, Tokens, Whole
from marketplace.api.jobs import examples
from marketplace.api.jobs.bodies import QuoteBody, receipt_pictures
from marketplace.api.problems import not_found
from marketplace.jobs.models import Job, ServiceClass, Status

OF_JOBS = {Transfer.Kind.CAPTURE, Transfer.Kind.REFUND}
"""Transfers whose reference is a job's id."""


class ReceiptQuoteBody(QuoteBody):
    skipped_step = Text(help_text="What a skipped step costs, as a share of one that was run.")


class ReceiptImageBody(Body):
    delivered = Flag()
    steps_run = Whole()
    steps_skipped = Whole(help_text="Taken from a cache.")
    charged = Tokens(given=True)


class ReceiptStepsBody(Body):
    ordered = Whole(given=True, help_text="Of all pictures together.")
    run = Whole(given=True)
    skipped = Whole(given=True)


class ReceiptHoldBody(Body):
    status = Choice(choices=Hold.Status.choices)
    amount = Tokens()
    captured = Tokens()
    released = Tokens(of=lambda hold: 0 if hold.status == Hold.Status.HELD else hold.amount - hold.captured)
    refunded = Tokens(help_text="Of what was captured.")
    created_at = Moment()
    expires_at = Moment()
    resolved_at = Moment(allow_null=True)


class ReceiptTransferBody(Body):
    id = Whole()
    kind = Choice(choices=Transfer.CUSTOMER_KINDS)
    amount = Tokens(
        of=lambda move: move.amount if move.kind == Transfer.Kind.REFUND else -move.amount,
        help_text="Negative where it left the wallet.",
    )
    created_at = Moment()


class ReceiptLotBody(Body):
    id = Identifier(of="row.lot")
    kind = Choice(choices=Lot.Kind.choices)
    amount = Tokens(help_text="What the job took from this lot and did not get back.")
    price = Text(
        of=lambda part: format_money(part.money_minor, part.currency) if part.currency else None,
        allow_null=True,
        help_text="What that had cost; null where granted.",
    )
    currency = Text(of=lambda part: part.currency or None, allow_null=True)


class ReceiptBody(Body):
    job = Identifier(of="row.id")
    status = Choice(choices=Status.choices)
    operation = Text()
    model = Text()
    service_class = Choice(choices=ServiceClass.choices)
    quote = ReceiptQuoteBody()
    images = ReceiptImageBody(many=True, given=True, help_text="Their charges sum to what was captured.")
    steps = ReceiptStepsBody(given=True)
    hold = ReceiptHoldBody(given=True)
    transfers = ReceiptTransferBody(many=True, given=True)
    lots = ReceiptLotBody(many=True, given=True)
    cost = Object(
        child=Text(), given=True, help_text='Money by currency, e.g. `{"eur": "0.13"}`; granted Tokens cost none.'
    )


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
        moves = Transfer.objects.filter(reference=job.id, kind__in=OF_JOBS).order_by("id")
        return Response(show(job, Hold.objects.get(reference=job.id), list(moves), cost))


def show(job: Job, hold: Hold, moves: Sequence[Transfer], cost: Cost) -> dict[str, Any]:
    images = _images(job)
    return ReceiptBody.show(
        job,
        images=images,
        steps=ReceiptStepsBody.show(
            ordered=job.steps,
            run=sum(image["steps_run"] for image in images),
            skipped=sum(image["steps_skipped"] for image in images),
        ),
        hold=ReceiptHoldBody.show(hold),
        transfers=[ReceiptTransferBody.show(move) for move in moves],
        lots=[ReceiptLotBody.show(part) for part in cost.parts],
        cost={currency: format_money(money, currency) for currency, money in sorted(cost.money.items())},
    )


def _images(job: Job) -> list[dict[str, Any]]:
    quoted = pricing.Quote.from_json(job.quote)
    shown = []
    for each in receipt_pictures(job):
        run, skipped = each.get("steps_run") or 0, each.get("steps_skipped") or 0
        outcome = pricing.ImageOutcome(bool(each["delivered"]), run, skipped)
        charge = pricing.charge_canceled if job.status == Status.CANCELED else pricing.charge
        charged = charge(quoted, [outcome])
        shown.append(ReceiptImageBody.show(outcome, charged=format_tokens(charged)))
    return shown
