"""The bodies of earnings, and of what becomes of them."""

from __future__ import annotations

from typing import Any

from billing.amounts import format_money
from billing.tokens.earned import Earned
from billing.tokens.earnings import Standing
from marketplace.api.bodies import Body, StrictSerializer
from marketplace.api.fields import Choice, Identifier, Moment, Object, Text, Tokens, Whole
from marketplace.api.pages import ListQuery

STATES = ["maturing", "matured", "away", "taken_back"]


class EarningQuery(ListQuery):
    cursor = Text(required=False, max_length=64, pattern="^[0-9]{1,18}$", help_text="`next_cursor` of the page before.")


class EarningBody(Body):
    id = Whole()
    use = Identifier(help_text="The use that earned it. Whose it was is not told.")
    amount = Tokens(help_text="The share of the price that was charged.")
    taken_back = Tokens(of="row.back", help_text="Of it, with refunds of the use.")
    away = Tokens(help_text="Of it, while the customer's payment is disputed or refunded and the Tokens are owed.")
    worth = Object(
        of=lambda earned: _money(earned),
        child=Text(),
        help_text='In money, by currency, of what is left, e.g. `{"eur": "0.03"}`; empty where gifts paid.',
    )
    state = Choice(choices=[(state, state) for state in STATES])
    created_at = Moment()


class EarningList(Body):
    data = EarningBody(many=True, of="row")  # type: ignore[assignment]
    next_cursor = Text(given=True, allow_null=True)


class PurseBody(Body):
    currency = Text(of=lambda purse: purse.currency or None, allow_null=True, help_text="Null: without worth in money.")
    amount = Tokens(help_text="Earned and not gone yet; negative where more was taken back than is left.")
    worth = Text(
        of=lambda purse: _shown(purse.money_minor, purse), allow_null=True, help_text="Of these, in the currency."
    )
    ready = Tokens(help_text="Of these, matured: they can be spent, or paid out.")
    ready_worth = Text(of=lambda purse: _shown(purse.ready_minor, purse), allow_null=True)
    debt = Tokens(
        of="row.advanced", help_text="Taken back after it was spent or paid out; later earnings pay it first."
    )


class SummaryBody(Body):
    purses = PurseBody(many=True, of="row")
    matures_after_days = Whole(given=True)


class SpendOrder(StrictSerializer):
    amount = Tokens(
        required=False, positive=True, help_text="By default all that is ready. What has no worth goes first."
    )


class SpentBody(Body):
    id = Identifier()
    amount = Tokens()
    currency = Text(of=lambda exchange: exchange.purse.currency or None, allow_null=True)
    worth = Text(of=lambda exchange: _shown(exchange.money_minor, exchange.purse), allow_null=True)


class SpentList(Body):
    data = SpentBody(many=True, of="row")  # type: ignore[assignment]


def _money(earned: Earned) -> dict[str, str]:
    return {currency: format_money(minor, currency) for currency, minor in sorted(earned.worth.items())}


def _shown(minor: int, purse: Standing | Any) -> str | None:
    return format_money(minor, purse.currency) if purse.currency else None
