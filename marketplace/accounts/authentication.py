"""Authentication by `Authorization: Bearer`, which names the account that pays: an API key, or else a token (a JWT) of
the identity provider. Operators' is by password.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast
from uuid import UUID

from django.conf import settings
from django.contrib.auth.backends import AllowAllUsersModelBackend
from rest_framework.authentication import BaseAuthentication, get_authorization_header
from rest_framework.exceptions import AuthenticationFailed
from rest_framework.permissions import BasePermission
from rest_framework.request import Request

from marketplace.accounts import identities, keys
from marketplace.accounts.keys import LiveKey
from marketplace.accounts.models import Person
from marketplace.limits import addresses, shares
from marketplace.limits.counts import Wanted
from marketplace.limits.policies import MINUTE, Policy

KEY_PREFIX = "kiln_"
UNKNOWN_KEY = "This API key is unknown or was revoked."


@dataclass(frozen=True, slots=True)
class Caller:
    """The account and API key of a request, in the place where Django expects a user; no key where a token came.

    A token has all rights of its account, and no caps but the account's.
    """

    account_id: UUID
    key_id: UUID | None
    is_authenticated: bool = True

    @property
    def pk(self) -> UUID:
        return self.account_id


def caller(request: Request) -> Caller:
    """Return who sent an authenticated request."""
    return cast(Caller, request.user)


class ApiKeyAuthentication(BaseAuthentication):
    """Authentication by API key, or by a token where there is an identity provider."""

    def __init__(self, find: Callable[[str], LiveKey | None] = keys.find) -> None:
        """Look keys up with `find`: `keys.find`, or `keys.recall` for views that check them again before they act."""
        self.find = find

    def authenticate(self, request: Request) -> tuple[Caller, None] | None:
        """Return None without the header (→ 401). Raises AuthenticationFailed if it is not taken, or SwitchedOff.

        Raises LimitReached once that happened too often at the client's address; what is right is let in all the same.
        OPTIONS needs neither key nor token and looks at none.
        """
        scheme, _, given = get_authorization_header(request).partition(b" ")
        if scheme.lower() != b"bearer" or request.method == "OPTIONS":
            return None
        try:
            return self._caller(given.strip().decode("ascii", "replace")), None
        except AuthenticationFailed:
            shares.take([Wanted(_failures(), addresses.client(request.META), 1)])
            raise

    def _caller(self, text: str) -> Caller:
        if identities.is_on() and not text.startswith(KEY_PREFIX):
            return Caller(identities.verify(text), None)
        key = self.find(text)
        if key is None:
            raise AuthenticationFailed(UNKNOWN_KEY)
        keys.touch(key)
        return Caller(key.account_id, key.id)

    def authenticate_header(self, request: Request) -> str:
        return 'Bearer realm="kiln"'


def _failures() -> Policy:
    return Policy("failures", settings.FAILURES_MINUTE, MINUTE)


class HasKey(BasePermission):
    """The permission to do anything with a key that works; to ask for the methods of an address nobody needs one."""

    def has_permission(self, request: Request, view: object) -> bool:
        return request.method == "OPTIONS" or bool(request.user and request.user.is_authenticated)


class Passwords(AllowAllUsersModelBackend):
    """Finds people by e-mail address and password, also those who are switched off: the log-in page tells them so.

    None of them stays logged in.
    """

    def get_user(self, user_id: int) -> Person | None:
        person = super().get_user(user_id)
        return person if person and person.is_active else None
