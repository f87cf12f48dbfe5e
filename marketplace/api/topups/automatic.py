"""Automatic top-ups over HTTP: parse, call one verb, show."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from billing.amounts import format_money, parse_money
from billing.models import AutomaticTopUp, Payer, TopUp
from billing.payments import automatic, stripe
from marketplace.accounts.authentication import caller
from marketplace.api.bodies import Body, ObjectParser, StoredBody, StrictSerializer
from marketplace.api.fields import Choice, Flag, Moment, Text, Tokens, Whole
from marketplace.api.keys.views import refuse_capped
from marketplace.api.problems import not_found
from marketplace.api.topups import examples
from marketplace.api.topups.schemas import CURRENCY, MONEY, WEB_ADDRESS, PackBody, TopUpBody
from marketplace.api.topups.views import pages


class AutomaticOrder(StrictSerializer):
    pack = Text(max_length=40, help_text="A name from `GET /v1/packs`; its terms of today are what you agree to.")
    currency = Text(max_length=3, pattern=CURRENCY, help_text='One that the pack has a price in, e.g. "eur".')
    threshold = Tokens(positive=True, help_text="Buy when fewer are available.")
    daily_cap = Text(max_length=14, pattern=MONEY, help_text='Pay no more than this in 24 hours, e.g. "60.00".')
    new_card = Flag(default=False, help_text="Save another card than the one that is saved.")
    success_url = Text(
        required=False, max_length=2000, validators=[WEB_ADDRESS], help_text="Where Stripe's pages lead afterwards."
    )
    cancel_url = Text(required=False, max_length=2000, validators=[WEB_ADDRESS], help_text="Where the way back leads.")

    def validate(self, attributes: dict[str, Any]) -> dict[str, Any]:
        try:
            attributes["daily_cap"] = parse_money(attributes["daily_cap"], attributes["currency"])
        except ValueError as error:
            raise serializers.ValidationError({"daily_cap": [str(error)]}) from error
        return attributes


class CardBody(StoredBody):
    brand = Text()
    last4 = Text()
    exp_month = Whole()
    exp_year = Whole()


class AutomaticBody(Body):
    status = Choice(choices=AutomaticTopUp.Status.choices)
    reason = Choice(
        choices=AutomaticTopUp.Reason.choices,
        of=lambda row: row.reason or None,
        allow_null=True,
        help_text="Why it is off; set it up anew to go on.",
    )
    pack = PackBody()
    price = Text(of=lambda row: format_money(row.pack.prices[row.currency], row.currency), help_text="Of one top-up.")
    currency = Text()
    threshold = Tokens()
    daily_cap = Text(of=lambda row: format_money(row.daily_cap_minor, row.currency))
    card = CardBody(given=True, allow_null=True)
    card_url = Text(
        of=lambda row: row.card_url or None, allow_null=True, help_text="Stripe's page to save a card, for 24 hours."
    )
    spent = Text(
        of=lambda row: format_money(automatic.spent(row), row.currency),
        help_text="Of `daily_cap`: paid in the last 24 hours, or possibly still to be paid.",
    )
    capped_until = Moment(
        of=automatic.capped_until,
        allow_null=True,
        help_text="Tokens are low, but the next top-up would exceed `daily_cap`; it is bought then.",
    )
    retry_at = Moment(allow_null=True, help_text="Not before, because the card was declined.")
    pending = TopUpBody(
        given=True, allow_null=True, help_text="With a `url` where your bank asks for you: pay it there."
    )
    created_at = Moment()


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
        return Response(show(account_id, row))

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
        home = pages(request, account_id, body, "/")
        made = automatic.order(stripe.from_settings(), account_id, terms, home, body["new_card"])
        return Response(show(account_id, made))

    @extend_schema(responses={204: None}, summary="Stop automatic top-ups and forget the card")
    def delete(self, request: Request) -> Response:
        """Not for a key that has a spend cap."""
        refuse_capped(request)
        automatic.cancel(stripe.from_settings(), caller(request).account_id)
        return Response(status=204)


def show(account_id: UUID, row: AutomaticTopUp) -> dict[str, Any]:
    payer = Payer.objects.filter(owner=account_id).first()
    due = TopUp.objects.filter(owner=account_id, automatic=True, status__in=automatic.PENDING)
    pending = due.select_related("pack").first()
    return AutomaticBody.show(
        row,
        card=CardBody.show(payer.card) if payer and payer.card_id else None,
        pending=TopUpBody.show(pending) if pending else None,
    )
