"""The account itself."""

from __future__ import annotations

from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from marketplace.accounts import periods
from marketplace.accounts.authentication import caller
from marketplace.accounts.models import Account
from marketplace.api.account.schemas import AccountBody, AccountChange
from marketplace.api.bodies import ObjectParser
from marketplace.api.keys.views import refuse_capped
from marketplace.audit import trail


class OneAccount(APIView):
    parser_classes = [ObjectParser]

    @extend_schema(responses={200: AccountBody}, summary="See your account")
    def get(self, request: Request) -> Response:
        return Response(AccountBody.show(Account.objects.select_related("owner").get(id=caller(request).account_id)))

    @extend_schema(request=AccountChange, responses={200: AccountBody}, summary="Change your time zone")
    def patch(self, request: Request) -> Response:
        """Days and months begin by it from the next ones on: those that are running go on until they end in both zones.

        A month ends as before where the new zone's has only just begun. Not for a key that has a cap.
        """
        refuse_capped(request)
        change = AccountChange(data=request.data)
        change.is_valid(raise_exception=True)
        account_id = caller(request).account_id
        with trail.acting(f"account {account_id}"):
            account = periods.change_zone(account_id, change.validated_data["time_zone"])
        return Response(AccountBody.show(account))
