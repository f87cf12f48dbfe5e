"""Authentication by `Authorization: Bearer <API key>`, which names the account that pays."""

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
    """The account and API key of a request, in the place where Django expects a user."""

    account_id: UUID
    key_id: UUID
    is_authenticated: bool = True

    @property
    def pk(self) -> UUID:
        return self.account_id


def caller(request: Request) -> Caller:
    """Return who sent an authenticated request."""
    return cast(Caller, request.user)


class ApiKeyAuthentication(BaseAuthentication):
    """Authentication by API key."""

    def __init__(self, find: Callable[[str], LiveKey | None] = keys.find) -> None:
        """Look keys up with `find`: `keys.find`, or `keys.recall` for views that check them again before they act."""
        self.find = find

    def authenticate(self, request: Request) -> tuple[Caller, LiveKey] | None:
        """Return None without the header (→ 401). Raises AuthenticationFailed if the key does not work."""
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
