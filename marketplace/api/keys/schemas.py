"""The bodies of API keys."""

from __future__ import annotations

from marketplace.api.bodies import Body, StrictSerializer
from marketplace.api.fields import Identifier, Moment, Text, Tokens


class KeyChange(StrictSerializer):
    """What is left out of a change stays as it is."""

    name = Text(required=False, max_length=100)
    daily_cap = Tokens(required=False, allow_null=True, help_text="Tokens a day of the account; null for no cap.")
    monthly_cap = Tokens(required=False, allow_null=True, help_text="Tokens a month of the account; null for no cap.")


class KeyOrder(KeyChange):
    """A new key has no cap unless it is given one."""

    name = Text(max_length=100)


class KeyBody(Body):
    id = Identifier()
    name = Text()
    prefix = Text(of=lambda key: f"kiln_{key.prefix}")
    daily_cap = Tokens(allow_null=True)
    monthly_cap = Tokens(allow_null=True)
    created_at = Moment()
    last_used_at = Moment(allow_null=True)
    revoked_at = Moment(allow_null=True)


class NewKeyBody(KeyBody):
    key = Text(given=True, help_text="The whole key, shown only once.")


class KeyList(Body):
    data = KeyBody(many=True, of="row")  # type: ignore[assignment]
