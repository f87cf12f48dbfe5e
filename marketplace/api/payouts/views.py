"""Payouts of what makers earned, and the account at Stripe that they go to."""

from __future__ import annotations

from uuid import UUID, uuid4

from django.db.models import QuerySet
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from billing.errors import NotAPayee, NoWallet
from billing.models import Payee, Payout
from billing.payments import payees, payouts, stripe
from marketplace.accounts.authentication import caller
from marketplace.accounts.models import Account
from marketplace.api.addresses import absolute
from marketplace.api.bodies import ObjectParser
from marketplace.api.headers import DESCRIBED_KEY, idempotency_key
from marketplace.api.keys.views import refuse_capped
from marketplace.api.pages import ListQuery, page
from marketplace.api.payouts.schemas import (
    OnboardingBody,
    PayeeBody,
    PayeeOrder,
    PayoutBody,
    PayoutList,
    PayoutOrder,
)
from marketplace.api.problems import not_found
from marketplace.identifiers import uuid7


class PayoutAccount(APIView):
    parser_classes = [ObjectParser]

    @extend_schema(responses={200: PayeeBody}, summary="See whether you can be paid out")
    def get(self, request: Request) -> Response:
        payee = Payee.objects.filter(owner=caller(request).account_id).first()
        if payee is None:
            raise not_found("account for payouts")
        if payee.status != Payee.Status.ACTIVE:  # an event may have been lost
            payees.ask(stripe.from_settings(), payee)
        return Response(PayeeBody.show(payee))

    @extend_schema(request=PayeeOrder, responses={200: OnboardingBody}, summary="Have yourself paid out by Stripe")
    def post(self, request: Request) -> Response:
        """Go to `url`, Stripe's page, and tell it who you are and where to pay. Call this again to change it.

        Where Stripe does not pay, earnings can be spent as Tokens. Not for a key that has a spend cap.
        """
        refuse_capped(request)
        order = PayeeOrder(data=request.data)
        order.is_valid(raise_exception=True)
        body, account_id = order.validated_data, caller(request).account_id
        email = Account.objects.values_list("owner__email", flat=True).get(id=account_id)
        home = absolute(request, "/")
        places = body.get("refresh_url", home), body.get("return_url", home)
        payee, url = payees.onboard(stripe.from_settings(), account_id, body["country"], email, places)
        return Response(OnboardingBody.show(payee, url=url))


class Payouts(APIView):
    parser_classes = [ObjectParser]

    @extend_schema(parameters=[ListQuery], responses={200: PayoutList}, summary="List your payouts, newest first")
    def get(self, request: Request) -> Response:
        query = ListQuery(data=request.query_params.dict())
        query.is_valid(raise_exception=True)
        rows, following = page(_mine(request).order_by("-id"), query.validated_data)
        return Response(PayoutList.show(rows, next_cursor=following))

    @extend_schema(
        request=PayoutOrder,
        responses={201: PayoutBody},
        summary="Be paid out what has matured",
        parameters=[OpenApiParameter("Idempotency-Key", DESCRIBED_KEY, "header")],
    )
    def post(self, request: Request) -> Response:
        """All that has matured in a currency, if it is enough; otherwise it is paid out each month once it is.

        Not for a key that has a spend cap.
        """
        refuse_capped(request)
        order = PayoutOrder(data=request.data)
        order.is_valid(raise_exception=True)
        key = f"asked {idempotency_key(request) or uuid4()}"
        account_id, currency = caller(request).account_id, order.validated_data["currency"]
        try:
            payout, replayed = payouts.order(account_id, currency, uuid7(), key)
        except NoWallet as error:
            raise NotAPayee(account_id) from error
        payouts.carry_out(stripe.from_settings())
        payout.refresh_from_db()
        headers = {"Location": f"/v1/payouts/{payout.id}"} | ({"Idempotent-Replayed": "true"} if replayed else {})
        return Response(PayoutBody.show(payout), status=201, headers=headers)


class OnePayout(APIView):
    @extend_schema(responses={200: PayoutBody}, summary="See a payout")
    def get(self, request: Request, payout_id: UUID) -> Response:
        payout = _mine(request).filter(id=payout_id).first()
        if payout is None:
            raise not_found("payout")
        return Response(PayoutBody.show(payout))


def _mine(request: Request) -> QuerySet[Payout]:
    return Payout.objects.filter(purse__maker__owner=caller(request).account_id).select_related("purse")
