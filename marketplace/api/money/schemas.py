"""The bodies of the balance and of statements."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from rest_framework import serializers

from billing.amounts import format_money
from billing.models import Clawback, Lot, Transfer
from billing.tokens.ledger import Entry
from billing.tokens.lots import Position
from marketplace.accounts.caps import Budget
from marketplace.api.bodies import Body, StrictSerializer
from marketplace.api.fields import Choice, Flag, Identifier, Moment, Text, Tokens, Whole
from marketplace.api.jobs.receipts import OF_JOBS
from marketplace.api.pages import ListQuery

SOON = timedelta(days=30)


class LotBody(Body):
    id = Identifier()
    kind = Choice(choices=Lot.Kind.choices)
    amount = Tokens(help_text="As it came in.")
    left = Tokens(of="row.remaining")
    price = Text(
        of=lambda lot: format_money(lot.price_minor, lot.currency) if lot.price_minor else None,
        allow_null=True,
        help_text='What was paid for it, e.g. "19.90"; null where granted.',
    )
    currency = Text(of=lambda lot: lot.currency or None, allow_null=True, help_text='e.g. "eur"')
    created_at = Moment()
    expires_at = Moment(allow_null=True)


# the row is a moment and the milli-Tokens that expire then
class ExpiringBody(Body):
    expires_at = Moment(of="row[0]")
    amount = Tokens(of="row[1]")


class DebtBody(Body):
    id = Identifier()
    owed = Tokens(help_text="Spent, although the payment for them went back.")
    price = Text(
        of=lambda debt: format_money(debt.owed_minor, debt.lot.currency) if debt.lot.price_minor else None,
        allow_null=True,
        help_text="What they had cost; null for a bonus.",
    )
    currency = Text(of=lambda debt: debt.lot.currency or None, allow_null=True)
    reason = Text()
    created_at = Moment()


class BudgetBody(Body):
    spent = Tokens(help_text="Charged in this period, less refunds, and held now.")
    cap = Tokens(allow_null=True)
    left = Tokens(allow_null=True, help_text="Of the cap; the account may have less.")
    resets_at = Moment()


# the row is a dict of budgets by period
class SpendingBody(Body):
    day = BudgetBody(of='row["day"]')
    month = BudgetBody(of='row["month"]')


class KeySpendingBody(SpendingBody):
    id = Identifier(given=True)


class BalanceBody(Body):
    available = Tokens()
    held = Tokens()
    total = Tokens()
    lots = LotBody(many=True, given=True)
    expiring_soon = ExpiringBody(many=True, given=True)
    frozen = Flag(given=True)
    debts = DebtBody(many=True, given=True)
    account = SpendingBody(given=True, help_text="What all of the account spends.")
    key = KeySpendingBody(
        given=True, allow_null=True, help_text="What the API key of this request spends; null where a token came."
    )


KINDS = [kind for kind, _ in Transfer.CUSTOMER_KINDS]
ONE = f"({'|'.join(KINDS)})"


class KindQuery(StrictSerializer):
    kind = Text(
        required=False,
        max_length=200,
        pattern=f"^{ONE}(,{ONE})*$",
        help_text="Only these kinds, with commas between: `capture,refund`.",
    )

    def validate_kind(self, kinds: str) -> list[str]:
        found = kinds.split(",")
        for kind in found:
            if kind not in KINDS:
                raise serializers.ValidationError(f"Must be of {', '.join(KINDS)}.")
        return found


class TransferQuery(KindQuery, ListQuery):
    cursor = Text(required=False, max_length=64, pattern="^[0-9]{1,18}$", help_text="`next_cursor` of the page before.")


class TransferBody(Body):
    id = Whole()
    kind = Choice(choices=Transfer.CUSTOMER_KINDS)
    amount = Tokens(help_text="Negative where it left the wallet.")
    balance = Tokens(help_text="What the wallet had after it, held Tokens included.")
    job = Identifier(of=lambda entry: _job(entry), allow_null=True, help_text="The job that was charged or refunded.")
    topup = Identifier(
        of="row.top_up",
        allow_null=True,
        help_text="The top-up that it came from, or that what expired or went back had come from.",
    )
    url = Text(of=lambda entry: _url(entry), allow_null=True, help_text="Where the job or the top-up is.")
    memo = Text()
    created_at = Moment()


class TransferList(Body):
    data = TransferBody(many=True, of="row")  # type: ignore[assignment]
    next_cursor = Text(given=True, allow_null=True)


def show_balance(
    found: Position, owed: Sequence[Clawback], budgets: Sequence[Budget], key_id: UUID | None
) -> dict[str, Any]:
    of_account, of_key = ({each.period: each for each in budgets if each.whose == who} for who in ("account", "key"))
    return BalanceBody.show(
        found.balance,
        lots=[LotBody.show(lot) for lot in found.lots],
        expiring_soon=[ExpiringBody.show(each) for each in _expiring_soon(found)],
        frozen=bool(owed),
        debts=[DebtBody.show(debt) for debt in owed],
        account=SpendingBody.show(of_account),
        key=KeySpendingBody.show(of_key, id=str(key_id)) if key_id else None,
    )


def _expiring_soon(found: Position) -> list[tuple[datetime, int]]:
    """Return when Tokens expire within `SOON`, and how many milli-Tokens each time."""
    soon: dict[datetime, int] = {}
    for lot in found.lots:
        if lot.expires_at and found.moment < lot.expires_at <= found.moment + SOON:
            soon[lot.expires_at] = soon.get(lot.expires_at, 0) + lot.remaining
    return sorted(soon.items())


def _job(entry: Entry) -> UUID | None:
    return entry.reference if entry.kind in OF_JOBS else None


def _url(entry: Entry) -> str | None:
    if job := _job(entry):
        return f"/v1/jobs/{job}"
    return f"/v1/topups/{entry.top_up}" if entry.top_up else None
