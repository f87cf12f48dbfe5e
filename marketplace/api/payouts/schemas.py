"""The bodies of payouts, and of the account at Stripe that they go to."""

from __future__ import annotations

from billing.amounts import format_money
from billing.models import Payee, Payout
from marketplace.api.bodies import Body, StrictSerializer
from marketplace.api.fields import Choice, Identifier, Moment, Text, Tokens
from marketplace.api.topups.schemas import CURRENCY, WEB_ADDRESS


class PayeeOrder(StrictSerializer):
    country = Text(
        max_length=2,
        pattern="^[a-z]{2}$",
        help_text='Where you or your company are, e.g. "de". It stays once Stripe has an account.',
    )
    return_url = Text(
        required=False, max_length=2000, validators=[WEB_ADDRESS], help_text="Where Stripe's page leads (Kiln's own)."
    )
    refresh_url = Text(
        required=False,
        max_length=2000,
        validators=[WEB_ADDRESS],
        help_text="Where it leads once it has expired: call this again from there.",
    )


class PayeeBody(Body):
    status = Choice(choices=Payee.Status.choices, help_text="Payouts are possible once it is active.")
    country = Text()
    created_at = Moment()


class OnboardingBody(Body):
    status = Choice(choices=Payee.Status.choices)
    url = Text(given=True, help_text="Stripe's page, for a few minutes, where you say who you are and where to pay.")


class PayoutOrder(StrictSerializer):
    currency = Text(max_length=3, pattern=CURRENCY, help_text='The purse to empty, e.g. "eur".')


class PayoutBody(Body):
    id = Identifier()
    status = Choice(choices=Payout.Status.choices, help_text="Failed or reversed: it is among your earnings again.")
    amount = Text(of=lambda payout: format_money(payout.money_minor, payout.purse.currency))
    currency = Text(of="row.purse.currency")
    tokens = Tokens(of="row.amount", help_text="The earnings that it paid.")
    returned = Text(
        of=lambda payout: format_money(payout.back_minor, payout.purse.currency),
        help_text="Of the amount, what is among your earnings again.",
    )
    failure = Text(
        of=lambda payout: payout.failure or None,
        allow_null=True,
        help_text="Why it waits or failed, in Stripe's words.",
    )
    created_at = Moment()
    done_at = Moment(allow_null=True)


class PayoutList(Body):
    data = PayoutBody(many=True, of="row")  # type: ignore[assignment]
    next_cursor = Text(given=True, allow_null=True)
