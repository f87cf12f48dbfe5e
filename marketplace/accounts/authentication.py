"""`Authorization: Bearer <API key>` → the account that pays."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast
from uuid import UUID

from rest_framework.authentication import BaseAuthentication, get_authorization_header
from rest_framework.exceptions import AuthenticationFailed
from rest_framework.request import Request

from marketplace.accounts import keys
from marketplace.accounts.keys import LiveKey

UNKNOWN_KEY = "This API key is unknown or was revoked."


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
    """`find` is `keys.find`, or `keys.recall` for a view that has the key looked at again before it does anything."""

    def __init__(self, find: Callable[[str], LiveKey | None] = keys.find) -> None:
        self.find = find

    def authenticate(self, request: Request) -> tuple[Caller, LiveKey] | None:
        """None without the header (→ 401); AuthenticationFailed for a bad, revoked or unknown key."""
        scheme, _, text = get_authorization_header(request).partition(b" ")
        if scheme.lower() != b"bearer":
            return None
        key = self.find(text.strip().decode("ascii", "replace"))
        if key is None:
            raise AuthenticationFailed(UNKNOWN_KEY)
        keys.touch(key)
        return Caller(key.account_id, key.id), key

    def authenticate_header(self, request: Request) -> str:
        return 'Bearer realm="kiln"'
