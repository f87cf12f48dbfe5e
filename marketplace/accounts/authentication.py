"""`Authorization: Bearer <API key>` → the account that pays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast
from uuid import UUID

from rest_framework.authentication import BaseAuthentication, get_authorization_header
from rest_framework.exceptions import AuthenticationFailed
from rest_framework.request import Request

from marketplace.accounts import keys
from marketplace.accounts.keys import LiveKey


@dataclass(frozen=True, slots=True)
class Caller:
    """Who is asking: stands where Django expects a user."""

    account_id: UUID
    key_id: UUID
    is_authenticated: bool = True

    @property
    def pk(self) -> UUID:
        return self.account_id


def caller(request: Request) -> Caller:
    """Who sent an authenticated request."""
    return cast(Caller, request.user)


class ApiKeyAuthentication(BaseAuthentication):
    def authenticate(self, request: Request) -> tuple[Caller, LiveKey] | None:
        """None without the header (→ 401); AuthenticationFailed for a bad, revoked or unknown key."""
        scheme, _, text = get_authorization_header(request).partition(b" ")
        if scheme.lower() != b"bearer":
            return None
        key = keys.find(text.strip().decode("ascii", "replace"))
        if key is None:
            raise AuthenticationFailed("This API key is unknown or was revoked.")
        keys.touch(key)
        return Caller(key.account_id, key.id), key

    def authenticate_header(self, request: Request) -> str:
        return 'Bearer realm="kiln"'
