"""The balance and the statement."""

from __future__ import annotations

from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from billing import debts, ledger, lots
from billing.models import Transfer
from billing.pricing import format_tokens
from marketplace.accounts import caps
from marketplace.accounts.authentication import caller
from marketplace.api import representations
from marketplace.api.errors import invalid
from marketplace.api.serializers import BalanceBody, ListQuery, TransferList

OF_JOBS = {Transfer.Kind.CAPTURE, Transfer.Kind.REFUND}


class Balance(APIView):
    @extend_schema(responses={200: BalanceBody}, summary="See your Tokens")
    def get(self, request: Request) -> Response:
        """`total` is `available` plus `held`, and what is left of the `lots` together; they are spent in this order.

        `expiring_soon` says which Tokens expire in the next 30 days. While there are `debts`, the account is `frozen`:
        it buys nothing until they are settled. `account` and `key` say what the whole account and what this key
        spent today and this month, by UTC, and what their spend caps leave.
        """
        account_id, key_id = caller(request).account_id, caller(request).key_id
        found = lots.position(account_id)
        budgets = caps.budgets(account_id, key_id)
        return Response(representations.balance(found, debts.of(account_id), budgets, key_id))


class Transfers(APIView):
    @extend_schema(parameters=[ListQuery], responses={200: TransferList}, summary="See your statement, newest first")
    def get(self, request: Request) -> Response:
        """Everything that ever came in or went out; the amounts add up to the balance's `total`."""
        query = ListQuery(data=request.query_params.dict())
        query.is_valid(raise_exception=True)
        limit, cursor = query.validated_data["limit"], query.validated_data.get("cursor")
        if cursor is not None and not (cursor.isascii() and cursor.isdigit() and len(cursor) < 19):
            raise invalid("cursor", "Must be the next_cursor of an earlier answer.")
        rows = ledger.statement(caller(request).account_id, int(cursor) if cursor else None, limit + 1)
        data = [
            {
                "id": row.id,
                "kind": row.kind,
                "amount": format_tokens(row.amount),
                "job": str(row.reference) if row.kind in OF_JOBS else None,
                "memo": row.memo,
                "created_at": row.created_at,
            }
            for row in rows[:limit]
        ]
        return Response({"data": data, "next_cursor": str(rows[limit - 1].id) if len(rows) > limit else None})
