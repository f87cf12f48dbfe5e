"""Automatic top-ups over HTTP: parse, call one verb, render."""

from __future__ import annotations

from uuid import UUID

from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from billing.models import AutomaticTopUp, Payer, TopUp
from billing.payments import automatic
from marketplace.accounts.authentication import caller
from marketplace.api import examples, representations
from marketplace.api.errors import not_found
from marketplace.api.fields import ObjectParser
from marketplace.api.keys.views import refuse_capped
from marketplace.api.serializers import AutomaticBody, AutomaticOrder
from marketplace.api.topups.views import pages


class Automatic(APIView):
    parser_classes = [ObjectParser]

    @extend_schema(
        responses={200: AutomaticBody}, examples=examples.automatic_seen, summary="See your automatic top-ups"
    )
    def get(self, request: Request) -> Response:
        account_id = caller(request).account_id
        row = AutomaticTopUp.objects.select_related("pack").filter(owner=account_id).first()
        if row is None:
            raise not_found("automatic top-up")
        return Response(_body(account_id, row))

    @extend_schema(
        request=AutomaticOrder,
        responses={200: AutomaticBody},
        examples=examples.automatic_ordered,
        summary="Buy a pack whenever Tokens run low",
    )
    def put(self, request: Request) -> Response:
        """Send the customer to `card_url`, where there is one, to save a card: it is charged while they are away.

        Not for a key that has a spend cap.
        """
        refuse_capped(request)
        order = AutomaticOrder(data=request.data)
        order.is_valid(raise_exception=True)
        body, account_id = order.validated_data, caller(request).account_id
        terms = automatic.Terms(body["pack"], body["currency"], body["threshold"], body["daily_cap"])
        made = automatic.order(account_id, terms, pages(request, account_id, body, "/"), body["new_card"])
        return Response(_body(account_id, made))

    @extend_schema(responses={204: None}, summary="Stop automatic top-ups and forget the card")
    def delete(self, request: Request) -> Response:
        automatic.cancel(caller(request).account_id)
        return Response(status=204)


def _body(account_id: UUID, row: AutomaticTopUp) -> dict[str, object]:
    payer = Payer.objects.filter(owner=account_id).first()
    pending = TopUp.objects.filter(owner=account_id, automatic=True, status__in=automatic.PENDING)
    return representations.automatic(row, payer, pending.select_related("pack").first())
