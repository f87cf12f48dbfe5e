"""The bodies of the account."""

from __future__ import annotations

from rest_framework import serializers

from marketplace.accounts import periods
from marketplace.api.bodies import Body, StrictSerializer
from marketplace.api.fields import Identifier, Moment, Text

ZONE = "^[A-Za-z][A-Za-z0-9_+-]*(/[A-Za-z0-9_+-]+)*$"


class AccountChange(StrictSerializer):
    time_zone = Text(
        max_length=64,
        pattern=ZONE,
        help_text='A name of the IANA time zone database, e.g. "Europe/Berlin".',
    )

    def validate_time_zone(self, name: str) -> str:
        if name not in periods.zones():
            raise serializers.ValidationError('Must be a name of the IANA time zone database, e.g. "Europe/Berlin".')
        return name


class AccountBody(Body):
    id = Identifier()
    name = Text()
    email = Text(of="row.owner.email")
    time_zone = Text(help_text="In which days and months begin, for spend caps and invoices.")
    created_at = Moment()
