"""Top-ups, which buy Token packs by card."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from billing.models import TopUp
from billing.payments import checkout, stripe
from marketplace.accounts.authentication import caller
from marketplace.accounts.models import Account
from marketplace.api.addresses import absolute
from marketplace.api.bodies import ObjectParser
from marketplace.api.headers import DESCRIBED_KEY, idempotency_key
from marketplace.api.keys.views import refuse_capped
from marketplace.api.pages import ListQuery, page
from marketplace.api.problems import not_found
from marketplace.api.topups.schemas import TopUpBody, TopUpList, TopUpOrder
from marketplace.identifiers import uuid7


class TopUps(APIView):
    parser_classes = [ObjectParser]

    @extend_schema(
        request=TopUpOrder,
        responses={201: TopUpBody},
        summary="Buy a Token pack by card",
        parameters=[
            OpenApiParameter(
                "Idempotency-Key",
                DESCRIBED_KEY,
                "header",
                description="Sent again with the same body, it opens no other top-up.",
            )
        ],
    )
    def post(self, request: Request) -> Response:
        """Send the customer to `url`, Stripe's page, where they pay. Tokens come when Stripe says that they have.

        Not for a key that has a spend cap.
        """
        refuse_capped(request)
        key = idempotency_key(request)
        order = TopUpOrder(data=request.data)
        order.is_valid(raise_exception=True)
        account_id = caller(request).account_id
        topup_id = uuid7()
        wanted = pages(request, account_id, order.validated_data, f"/topups/{topup_id}")
        top_up, replayed = checkout.buy(stripe.from_settings(), topup_id, account_id, wanted, key)
        headers = {"Location": f"/v1/topups/{top_up.id}"} | ({"Idempotent-Replayed": "true"} if replayed else {})
        return Response(TopUpBody.show(top_up), status=201, headers=headers)

    @extend_schema(parameters=[ListQuery], responses={200: TopUpList}, summary="List top-ups, newest first")
    def get(self, request: Request) -> Response:
        query = ListQuery(data=request.query_params.dict())
        query.is_valid(raise_exception=True)
        mine = TopUp.objects.filter(owner=caller(request).account_id).select_related("pack").order_by("-id")
        rows, following = page(mine, query.validated_data)
        return Response(TopUpList.show(rows, next_cursor=following))


class OneTopUp(APIView):
    @extend_schema(responses={200: TopUpBody}, summary="See a top-up")
    def get(self, request: Request, topup_id: UUID) -> Response:
        mine = TopUp.objects.filter(owner=caller(request).account_id)
        row = mine.filter(id=topup_id).select_related("pack").first()
        if row is None:
            raise not_found("top-up")
        return Response(TopUpBody.show(row))


def pages(request: Request, account_id: UUID, body: dict[str, Any], ours: str) -> checkout.Order:
    """Return the order for a body with a pack. Stripe's pages lead back to `ours` unless the body says otherwise."""
    home = absolute(request, ours)
    email = Account.objects.values_list("owner__email", flat=True).get(id=account_id)
    places = body.get("success_url", home), body.get("cancel_url", home)
    return checkout.Order(body["pack"], body["currency"], *places, email, dict(body), body.get("save_card", False))
