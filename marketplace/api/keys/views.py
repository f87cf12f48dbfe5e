"""API keys: list, make, change, revoke."""

from __future__ import annotations

from uuid import UUID

from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from marketplace.accounts import keys
from marketplace.accounts.authentication import caller
from marketplace.accounts.models import Account, ApiKey
from marketplace.api.bodies import ObjectParser
from marketplace.api.keys.schemas import KeyBody, KeyChange, KeyList, KeyOrder, NewKeyBody
from marketplace.api.problems import Problem, not_found
from marketplace.audit import trail

MAX_LIVE_KEYS = 100
CAPPED = "An API key with a spend cap buys pictures and reads; it cannot manage keys or top-ups."


def refuse_capped(request: Request) -> None:
    """Raise a 403 if the request's API key has a spend cap of its own: money and keys are beyond it."""
    key_id = caller(request).key_id
    if key_id and ApiKey.objects.get(id=key_id).is_capped:
        raise Problem(403, "permission", "capped_key", CAPPED)


class Keys(APIView):
    parser_classes = [ObjectParser]

    @extend_schema(responses={200: KeyList}, summary="List API keys")
    def get(self, request: Request) -> Response:
        rows = ApiKey.objects.filter(account_id=caller(request).account_id).order_by("-id")[:1000]
        return Response(KeyList.show(rows))

    @extend_schema(request=KeyOrder, responses={201: NewKeyBody}, summary="Make an API key")
    def post(self, request: Request) -> Response:
        """The answer holds the whole key; it cannot be shown again. `daily_cap` and `monthly_cap` limit what it spends.

        A key that has a cap makes no keys: one without would be its way around it.
        """
        refuse_capped(request)
        order = KeyOrder(data=request.data)
        order.is_valid(raise_exception=True)
        account_id = caller(request).account_id
        with trail.acting(f"account {account_id}"):
            Account.objects.select_for_update(no_key=True).get(id=account_id)  # so that the count is right
            if ApiKey.objects.filter(account_id=account_id, revoked_at=None).count() >= MAX_LIVE_KEYS:
                raise Problem(409, "conflict", "too_many_keys", f"Revoke one of your {MAX_LIVE_KEYS} keys first.")
            row, secret = keys.issue(account_id, **order.validated_data)
        return Response(NewKeyBody.show(row, key=secret), status=201)


class OneKey(APIView):
    parser_classes = [ObjectParser]

    @extend_schema(responses={200: KeyBody}, summary="See an API key")
    def get(self, request: Request, key_id: UUID) -> Response:
        """With `If-Match: <its ETag>` a change or a revocation is made only if the key is still as it was seen."""
        row = ApiKey.objects.filter(account_id=caller(request).account_id, id=key_id).first()
        if row is None:
            raise not_found("API key")
        return Response(KeyBody.show(row))

    @extend_schema(request=KeyChange, responses={200: KeyBody}, summary="Rename or cap an API key")
    def patch(self, request: Request, key_id: UUID) -> Response:
        """Caps count from the next job on, with what was spent in the day and the month so far; null removes one.

        Not for a key that has a cap itself.
        """
        refuse_capped(request)
        change = KeyChange(data=request.data)
        change.is_valid(raise_exception=True)
        account_id = caller(request).account_id
        with trail.acting(f"account {account_id}"):
            row = keys.change(account_id, key_id, **change.validated_data)
        if row is None:
            raise not_found("API key")
        return Response(KeyBody.show(row))

    @extend_schema(responses={200: KeyBody}, summary="Revoke an API key")
    def delete(self, request: Request, key_id: UUID) -> Response:
        """It stops working at once; it stays in the list. Jobs that it bought go on.

        A key that has a cap revokes no key but itself.
        """
        if key_id != caller(request).key_id:
            refuse_capped(request)
        account_id = caller(request).account_id
        with trail.acting(f"account {account_id}"):
            row = keys.revoke(account_id, key_id)
        if row is None:
            raise not_found("API key")
        return Response(KeyBody.show(row))
