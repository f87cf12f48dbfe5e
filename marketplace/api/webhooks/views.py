"""Webhooks over HTTP: endpoints, their secrets, what was delivered, and what to tell an account."""

from __future__ import annotations

from uuid import UUID

from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from marketplace.accounts.authentication import caller
from marketplace.api.bodies import ObjectParser
from marketplace.api.keys.views import refuse_capped
from marketplace.api.pages import ListQuery, page
from marketplace.api.problems import not_found
from marketplace.api.webhooks.schemas import (
    DeliveryBody,
    DeliveryList,
    NewWebhookBody,
    NotificationsBody,
    NotificationsChange,
    SecretBody,
    WebhookBody,
    WebhookChange,
    WebhookList,
    WebhookOrder,
)
from marketplace.webhooks import endpoints, signatures
from marketplace.webhooks.models import Delivery, Endpoint, Preferences


class Webhooks(APIView):
    parser_classes = [ObjectParser]

    @extend_schema(responses={200: WebhookList}, summary="List webhooks")
    def get(self, request: Request) -> Response:
        rows = Endpoint.objects.filter(account_id=caller(request).account_id).order_by("-id")
        return Response(WebhookList.show(rows))

    @extend_schema(request=WebhookOrder, responses={201: NewWebhookBody}, summary="Make a webhook")
    def post(self, request: Request) -> Response:
        """Events of the chosen types are posted there, signed (Standard Webhooks). The secret is shown only now.

        Not for a key that has a cap. An account has 20 webhooks at most.
        """
        refuse_capped(request)
        order = WebhookOrder(data=request.data)
        order.is_valid(raise_exception=True)
        made, secret = endpoints.create(caller(request).account_id, **order.validated_data)
        headers = {"Location": f"/v1/webhooks/{made.id}"}
        return Response(NewWebhookBody.show(made, secret=secret), status=201, headers=headers)


class OneWebhook(APIView):
    parser_classes = [ObjectParser]

    @extend_schema(responses={200: WebhookBody}, summary="See a webhook")
    def get(self, request: Request, webhook_id: UUID) -> Response:
        return Response(WebhookBody.show(find(request, webhook_id)))

    @extend_schema(request=WebhookChange, responses={200: WebhookBody}, summary="Change a webhook")
    def patch(self, request: Request, webhook_id: UUID) -> Response:
        """Enable one again with `enabled`; what it missed can be sent once more. Not for a key that has a cap."""
        refuse_capped(request)
        endpoint = find(request, webhook_id)
        change = WebhookChange(data=request.data)
        change.is_valid(raise_exception=True)
        return Response(WebhookBody.show(endpoints.change(endpoint, **change.validated_data)))

    @extend_schema(responses={204: None}, summary="Delete a webhook")
    def delete(self, request: Request, webhook_id: UUID) -> Response:
        """Its deliveries go with it. Not for a key that has a cap."""
        refuse_capped(request)
        endpoints.delete(find(request, webhook_id))
        return Response(status=204)


class WebhookSecret(APIView):
    parser_classes = [ObjectParser]

    @extend_schema(request=None, responses={200: SecretBody}, summary="Rotate a webhook's secret")
    def post(self, request: Request, webhook_id: UUID) -> Response:
        """For 24 hours both secrets sign, so that receivers can change over. Not for a key that has a cap."""
        refuse_capped(request)
        return Response(SecretBody.show(secret=signatures.rotate(find(request, webhook_id))))


class TestWebhook(APIView):
    parser_classes = [ObjectParser]

    @extend_schema(request=None, responses={202: DeliveryBody}, summary="Send a test event")
    def post(self, request: Request, webhook_id: UUID) -> Response:
        """An event of the type `webhook.test`, sent as any other."""
        return Response(DeliveryBody.show(endpoints.test(find(request, webhook_id))), status=202)


class Deliveries(APIView):
    @extend_schema(parameters=[ListQuery], responses={200: DeliveryList}, summary="List a webhook's deliveries")
    def get(self, request: Request, webhook_id: UUID) -> Response:
        """Newest first; they are kept for 30 days, and no more than 100,000 of an account."""
        query = ListQuery(data=request.query_params.dict())
        query.is_valid(raise_exception=True)
        mine = Delivery.objects.filter(endpoint=find(request, webhook_id)).order_by("-id")
        rows, following = page(mine, query.validated_data)
        return Response(DeliveryList.show(rows, next_cursor=following))


class ReplayDelivery(APIView):
    parser_classes = [ObjectParser]

    @extend_schema(request=None, responses={202: DeliveryBody}, summary="Send an event once more")
    def post(self, request: Request, webhook_id: UUID, delivery_id: UUID) -> Response:
        """As a delivery of its own, with the event's id: a receiver that has acted on it knows it by that."""
        endpoint = find(request, webhook_id)
        delivery = Delivery.objects.filter(endpoint=endpoint, id=delivery_id).first()
        if delivery is None:
            raise not_found("delivery")
        return Response(DeliveryBody.show(endpoints.replay(endpoint, delivery)), status=202)


class AccountSecret(APIView):
    parser_classes = [ObjectParser]

    @extend_schema(request=None, responses={200: SecretBody}, summary="Make the secret of orders' webhooks")
    def post(self, request: Request) -> Response:
        """What is posted to the `webhook_url` of an order is signed with it. Made anew each time; the one before signs
        too for 24 hours. Not for a key that has a cap.
        """
        refuse_capped(request)
        return Response(SecretBody.show(secret=signatures.rotate(endpoints.preferences(caller(request).account_id))))


class OrderDeliveries(APIView):
    @extend_schema(parameters=[ListQuery], responses={200: DeliveryList}, summary="List orders' deliveries")
    def get(self, request: Request) -> Response:
        """What was sent to the `webhook_url` of orders, newest first."""
        query = ListQuery(data=request.query_params.dict())
        query.is_valid(raise_exception=True)
        mine = Delivery.objects.filter(account_id=caller(request).account_id, channel=Delivery.Channel.ORDER)
        rows, following = page(mine.order_by("-id"), query.validated_data)
        return Response(DeliveryList.show(rows, next_cursor=following))


class Notifications(APIView):
    parser_classes = [ObjectParser]

    @extend_schema(responses={200: NotificationsBody}, summary="See what you are told")
    def get(self, request: Request) -> Response:
        return Response(NotificationsBody.show(_notifications(request)))

    @extend_schema(request=NotificationsChange, responses={200: NotificationsBody}, summary="Change what you are told")
    def patch(self, request: Request) -> Response:
        """In which language, when Tokens run low, and what not by e-mail. Not for a key that has a cap."""
        refuse_capped(request)
        change = NotificationsChange(data=request.data)
        change.is_valid(raise_exception=True)
        wanted = _notifications(request)
        if change.validated_data:
            Preferences.objects.filter(pk=wanted.pk).update(**change.validated_data)
        return Response(NotificationsBody.show(_notifications(request)))


def find(request: Request, webhook_id: UUID) -> Endpoint:
    found = Endpoint.objects.filter(account_id=caller(request).account_id, id=webhook_id).first()
    if found is None:
        raise not_found("webhook")
    return found


def _notifications(request: Request) -> Preferences:
    wanted = endpoints.preferences(caller(request).account_id)
    return Preferences.objects.select_related("account__owner").get(pk=wanted.pk)
