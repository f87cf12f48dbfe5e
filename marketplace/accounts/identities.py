"""Identities: who the identity provider's tokens speak for, and how such a token (a JWT) is checked.

The provider says who somebody is, and the table of identities whose account that is: an operator links them, or the
first token does, where the settings say so.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

import jwt
from django.conf import settings
from django.db import transaction
from rest_framework.exceptions import AuthenticationFailed

from marketplace import text
from marketplace.accounts import customers, signing_keys
from marketplace.accounts.keys import SwitchedOff
from marketplace.accounts.models import Account, Identity, Person

MAX_TOKEN = 8192
MAX_NAME = 255


class InvalidToken(AuthenticationFailed):
    """A token that is not taken; `detail.code` says why."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message, code)


def is_on() -> bool:
    return bool(settings.JWT_KEYS_URL)


def verify(token: str) -> UUID:
    """Return the account that a token speaks for. Raises InvalidToken, ProviderAway or SwitchedOff."""
    claims = _claims(token)
    subject = claims.get(settings.JWT_CLAIM)
    if not isinstance(subject, str) or not 0 < len(subject) <= MAX_NAME or not _is_text(subject):
        raise InvalidToken("missing_claim", f"The token's `{settings.JWT_CLAIM}` must name you.")
    account = _find(subject) or (_create(subject, claims) if settings.JWT_CREATE else None)
    if account is None:
        raise InvalidToken("identity_not_linked", "The token is right, and linked to no account: ask the operator.")
    if not (account.is_active and account.owner.is_active):
        raise SwitchedOff
    return account.id


def link(account: Account, subject: str) -> None:
    """Have the provider's tokens with this subject speak for an account, and for no other any more."""
    Identity.objects.update_or_create(issuer=settings.JWT_ISSUER, subject=subject, defaults={"account": account})


def unlink(subject: str) -> bool:
    return bool(Identity.objects.filter(issuer=settings.JWT_ISSUER, subject=subject).delete()[0])


def _is_text(subject: str) -> bool:
    """Return whether a name has no control characters, which no table keeps."""
    try:
        text.prose(subject)
    except ValueError:
        return False
    return True


def _find(subject: str) -> Account | None:
    mine = Account.objects.filter(identity__issuer=settings.JWT_ISSUER, identity__subject=subject)
    return mine.select_related("owner").first()


def _create(subject: str, claims: dict[str, Any]) -> Account | None:
    """Create an account for an e-mail address that the provider has verified and that nobody here has."""
    if claims.get("email_verified") is not True:
        return None
    try:
        email = text.email(str(claims.get("email", "")))
    except ValueError:
        return None
    with transaction.atomic():
        if not Person.objects.filter(email=email).exists():
            link(customers.create(email), subject)
    return _find(subject)  # perhaps of another request at the same moment


def _claims(token: str) -> dict[str, Any]:
    """Return what a token says, once its signature, issuer, audience and times are found right."""
    if len(token) > MAX_TOKEN:
        raise InvalidToken("malformed_token", f"A token may have at most {MAX_TOKEN} characters.")
    try:
        header = jwt.get_unverified_header(token)
    except jwt.PyJWTError as error:
        raise InvalidToken("malformed_token", "This is neither an API key nor a token (JWT).") from error
    if header.get("alg") not in settings.JWT_ALGORITHMS:
        raise InvalidToken("algorithm_not_allowed", f"Tokens are signed by {', '.join(settings.JWT_ALGORITHMS)}.")
    try:
        key = signing_keys.from_settings().find(header.get("kid"))
    except signing_keys.UnknownSigningKey as error:
        raise InvalidToken("unknown_signing_key", "The token is signed by a key that the provider has not.") from error
    return _decoded(token, key, header["alg"])


def _decoded(token: str, key: jwt.PyJWK, algorithm: str) -> dict[str, Any]:
    try:
        return jwt.decode(
            token,
            key.key,
            algorithms=[algorithm],
            issuer=settings.JWT_ISSUER,
            audience=settings.JWT_AUDIENCE,
            leeway=settings.JWT_LEEWAY,
            options={"require": ["exp", "iss", "aud"]},
        )
    except jwt.ExpiredSignatureError as error:
        raise InvalidToken("token_expired", "The token has expired: get a new one.") from error
    except (jwt.ImmatureSignatureError, jwt.InvalidIssuedAtError) as error:
        raise InvalidToken("token_not_yet_valid", "The token is not valid yet.") from error
    except jwt.InvalidAudienceError as error:
        raise InvalidToken("wrong_audience", "The token is not meant for Kiln.") from error
    except jwt.InvalidIssuerError as error:
        raise InvalidToken("wrong_issuer", "The token is not the identity provider's.") from error
    except jwt.MissingRequiredClaimError as error:
        raise InvalidToken("missing_claim", f"The token must say `{error.claim}`.") from error
    except (jwt.PyJWTError, TypeError, ValueError, OverflowError) as error:
        raise InvalidToken("bad_signature", "The token's signature is not right.") from error
