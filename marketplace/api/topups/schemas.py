"""The bodies of Token packs and top-ups."""

from __future__ import annotations

from django.core.validators import URLValidator

from billing.amounts import format_money
from billing.models import TopUp
from marketplace.api.bodies import Body, StrictSerializer
from marketplace.api.fields import Choice, Flag, Identifier, Moment, Object, Text, Tokens, Whole

WEB_ADDRESS = URLValidator(["http", "https"])


CURRENCY, MONEY = "^[a-z]{3}$", r"^(0|[1-9][0-9]{0,8})(\.[0-9]{1,3})?$"


class TopUpOrder(StrictSerializer):
    pack = Text(max_length=40, help_text="A name from `GET /v1/packs`.")
    currency = Text(max_length=3, pattern=CURRENCY, help_text='One that the pack has a price in, e.g. "eur".')
    success_url = Text(
        required=False,
        max_length=2000,
        validators=[WEB_ADDRESS],
        help_text="Where to go on once it was paid (a page of Kiln's).",
    )
    cancel_url = Text(
        required=False, max_length=2000, validators=[WEB_ADDRESS], help_text="Where the way back from the page leads."
    )
    save_card = Flag(default=False, help_text="For automatic top-ups, in the place of another one.")


class PackBody(Body):
    name = Text()
    version = Whole()
    tokens = Tokens()
    bonus = Tokens(help_text="Granted beside.")
    prices = Object(
        of=lambda pack: {currency: format_money(price, currency) for currency, price in sorted(pack.prices.items())},
        child=Text(),
        help_text='By currency, e.g. `{"eur": "5.00"}`.',
    )


class TopUpBody(Body):
    id = Identifier()
    status = Choice(choices=TopUp.Status.choices, help_text="Tokens are there once it is paid.")
    url = Text(
        of=lambda top_up: top_up.url or None if top_up.status == TopUp.Status.OPEN else None,
        allow_null=True,
        help_text="Stripe's page, while it can be paid there.",
    )
    pack = PackBody()
    price = Text(of=lambda top_up: format_money(top_up.price_minor, top_up.currency), help_text='e.g. "5.00"')
    currency = Text()
    refunded = Text(of=lambda top_up: format_money(top_up.refunded_minor, top_up.currency), help_text="Of the price.")
    automatic = Flag(help_text="Bought by an automatic top-up; open with a `url`: the bank asks.")
    failure = Text(
        of=lambda top_up: top_up.failure or None,
        allow_null=True,
        help_text="Why the card did not pay, or not alone, in Stripe's words.",
    )
    created_at = Moment()
    expires_at = Moment()
    paid_at = Moment(allow_null=True)


class TopUpList(Body):
    data = TopUpBody(many=True, of="row")  # type: ignore[assignment]
    next_cursor = Text(given=True, allow_null=True)
