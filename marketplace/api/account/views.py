"""The account itself."""

from __future__ import annotations

from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from billing.amounts import format_money, format_tokens
from marketplace import closing, text
from marketplace.accounts import origins, periods
from marketplace.accounts.authentication import caller
from marketplace.accounts.models import Account
from marketplace.api.account.schemas import AccountBody, AccountChange, AccountClosing, ClosedBody
from marketplace.api.bodies import ObjectParser
from marketplace.api.keys.views import refuse_capped
from marketplace.api.problems import invalid
from marketplace.audit import trail


class OneAccount(APIView):
    parser_classes = [ObjectParser]

    @extend_schema(responses={200: AccountBody}, summary="See your account")
    def get(self, request: Request) -> Response:
        return Response(AccountBody.show(Account.objects.select_related("owner").get(id=caller(request).account_id)))

    @extend_schema(request=AccountChange, responses={200: AccountBody}, summary="Change your account")
    def patch(self, request: Request) -> Response:
        """Days and months begin by a new time zone from the next ones on: those that are running go on until they end
        in both zones. A month ends as before where the new zone's has only just begun.

        `origins` replaces the list of sites. Not for a key that has a cap.
        """
        refuse_capped(request)
        change = AccountChange(data=request.data)
        change.is_valid(raise_exception=True)
        account_id, wanted = caller(request).account_id, change.validated_data
        with trail.acting(f"account {account_id}"):
            if "time_zone" in wanted:
                periods.change_zone(account_id, wanted["time_zone"])
            if "origins" in wanted:
                origins.replace(account_id, wanted["origins"])
        return self.get(request)

    @extend_schema(request=AccountClosing, responses={200: ClosedBody}, summary="Close your account for good")
    def delete(self, request: Request) -> Response:
        """All keys stop working at once, jobs are canceled, and then all that is not part of the books is removed:
        pictures, prompts, files, webhooks, saved cards, and your name and e-mail address once the month's invoice is
        written. This cannot be undone. Not for a key that has a cap.

        Send `{"confirm": "<your e-mail address>", "forfeit": false}`; `forfeit` gives up the Tokens and earnings that
        are left. Adapters end for everybody; jobs that were ordered with them are still drawn.
        """
        refuse_capped(request)
        order = AccountClosing(data=request.data)
        order.is_valid(raise_exception=True)
        account = Account.objects.select_related("owner").get(id=caller(request).account_id)
        if _normal(order.validated_data["confirm"]) != account.owner.email:
            raise invalid("confirm", "Must be the e-mail address of this account.")
        with trail.acting(f"account {account.id}"):
            left = closing.close(account.id, forfeit=order.validated_data["forfeit"])
        closing.erase(account)
        account.refresh_from_db()
        worth = {currency: format_money(minor, currency) for currency, minor in left.worth.items()}
        body = ClosedBody.show(
            account,
            forfeited=format_tokens(left.tokens),
            forfeited_earnings=format_tokens(left.earned),
            forfeited_worth=worth,
        )
        return Response(body)


def _normal(email: str) -> str | None:
    try:
        return text.email(email)
    except ValueError:
        return None
