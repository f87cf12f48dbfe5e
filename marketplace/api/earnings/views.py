"""What makers earned, use by use and in sum, and how they spend it as Tokens."""

from __future__ import annotations

from uuid import uuid4

from django.conf import settings
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from billing.errors import NothingMatured, NoWallet
from billing.tokens import earned, exchanges
from marketplace.accounts.authentication import caller
from marketplace.api.bodies import ObjectParser
from marketplace.api.earnings.schemas import EarningList, EarningQuery, SpendOrder, SpentList, SummaryBody
from marketplace.api.headers import DESCRIBED_KEY, idempotency_key
from marketplace.api.keys.views import refuse_capped
from marketplace.api.problems import invalid


class Earnings(APIView):
    @extend_schema(parameters=[EarningQuery], responses={200: EarningList}, summary="See what you earned, newest first")
    def get(self, request: Request) -> Response:
        """One entry a use of your adapters, a minute or so after it was charged. A refund of the use takes its part.

        Nothing here tells who used it, or for what.
        """
        query = EarningQuery(data=request.query_params.dict())
        query.is_valid(raise_exception=True)
        limit, cursor = query.validated_data["limit"], query.validated_data.get("cursor")
        if cursor is not None and not (cursor.isascii() and cursor.isdigit() and len(cursor) < 19):
            raise invalid("cursor", "Must be the next_cursor of an earlier answer.")
        rows = earned.page(caller(request).account_id, int(cursor) if cursor else None, limit + 1)
        following = str(rows[limit - 1].id) if len(rows) > limit else None
        return Response(EarningList.show(rows[:limit], next_cursor=following))


class Summary(APIView):
    @extend_schema(responses={200: SummaryBody}, summary="See what your earnings come to")
    def get(self, request: Request) -> Response:
        """A purse for each currency that customers paid in, and one for what has no worth in money."""
        found = earned.purses(caller(request).account_id)
        return Response(SummaryBody.show(found, matures_after_days=settings.EARNINGS_DAYS))


class Spend(APIView):
    parser_classes = [ObjectParser]

    @extend_schema(
        request=SpendOrder,
        responses={201: SpentList},
        summary="Spend what you earned as Tokens",
        parameters=[OpenApiParameter("Idempotency-Key", DESCRIBED_KEY, "header")],
    )
    def post(self, request: Request) -> Response:
        """Move matured earnings into your balance, at once. They keep their worth; they cannot be paid out any more.

        Not for a key that has a spend cap.
        """
        refuse_capped(request)
        order = SpendOrder(data=request.data)
        order.is_valid(raise_exception=True)
        key, amount = idempotency_key(request) or str(uuid4()), order.validated_data.get("amount")
        try:
            made, replayed = exchanges.make(caller(request).account_id, amount, key)
        except NoWallet as error:
            raise NothingMatured(0) from error
        headers = {"Idempotent-Replayed": "true"} if replayed else {}
        return Response(SpentList.show(made), status=201, headers=headers)
