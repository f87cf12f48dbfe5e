"""The bodies of the account."""

from __future__ import annotations

from rest_framework import serializers

from marketplace.accounts import periods
from marketplace.api import cross_origin
from marketplace.api.bodies import Body, StrictSerializer
from marketplace.api.fields import Array, Flag, Identifier, Moment, Object, Text, Tokens

ZONE = "^[A-Za-z][A-Za-z0-9_+-]*(/[A-Za-z0-9_+-]+)*$"


class AccountChange(StrictSerializer):
    """What is left out of a change stays as it is."""

    time_zone = Text(
        required=False,
        max_length=64,
        pattern=ZONE,
        help_text='A name of the IANA time zone database, e.g. "Europe/Berlin".',
    )

    def validate_time_zone(self, name: str) -> str:
        if name not in periods.zones():
            raise serializers.ValidationError('Must be a name of the IANA time zone database, e.g. "Europe/Berlin".')
        return name

    origins = Array(
        child=Text(max_length=cross_origin.MAX_LENGTH), required=False, max_length=cross_origin.MAX_ORIGINS,
        help_text='Sites whose scripts may call the API with a key of yours, e.g. `["https://app.example.com"]`; '
        "https, or http://localhost.",
    )  # fmt: skip

    def validate_origins(self, origins: list[str]) -> list[str]:
        try:
            return sorted({cross_origin.normalise(each) for each in origins})
        except ValueError as error:
            raise serializers.ValidationError(str(error)) from error


class AccountClosing(StrictSerializer):
    confirm = Text(max_length=254, help_text="The e-mail address of the account.")
    forfeit = Flag(default=False, help_text="Give up the Tokens and earnings that are left.")


class ClosedBody(Body):
    id = Identifier()
    closed_at = Moment()
    forfeited = Tokens(given=True, help_text="What was left; nobody can spend it any more.")
    forfeited_earnings = Tokens(given=True, help_text="What was left of earnings.")
    forfeited_worth = Object(given=True, child=Text(), help_text='What these were worth, e.g. `{"eur": "0.03"}`.')


class AccountBody(Body):
    id = Identifier()
    name = Text()
    email = Text(of="row.owner.email")
    time_zone = Text(help_text="In which days and months begin, for spend caps and invoices.")
    origins = Array(child=Text(), of=lambda row: sorted(each.origin for each in row.origins.all()))
    created_at = Moment()
