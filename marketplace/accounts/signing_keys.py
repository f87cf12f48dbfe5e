"""The public keys of the identity provider, fetched from its JWKS address and kept.

They are fetched anew once they are an hour old, or when a token names one that is not known, but at most once in
PAUSE_SECONDS. While the provider is away, those that are known go on working.
"""

from __future__ import annotations

import json
import logging
import threading
import time
import urllib.request
from collections.abc import Callable
from functools import cache

import jwt
from django.conf import settings

FRESH_SECONDS = 3600.0
PAUSE_SECONDS = 30.0
WAIT_SECONDS = 3.0
MAX_BYTES = 256 * 1024
CHUNK = 16 * 1024
SYMMETRIC = "oct"

logger = logging.getLogger(__name__)


class UnknownSigningKey(Exception):
    """The provider has no such key."""


class ProviderAway(Exception):
    """The provider's keys cannot be fetched, and this one is not known."""


class SigningKeys:
    """The keys at one address, by their id."""

    def __init__(self, url: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._url = url
        self._clock = clock
        self._known: dict[str, jwt.PyJWK] = {}
        self._fresh_until = 0.0
        self._ask_at = 0.0
        self._is_away = False
        self._asking = threading.Lock()

    def find(self, key_id: str | None) -> jwt.PyJWK:
        """Return the key of this id; without an id, the only one. Raises UnknownSigningKey or ProviderAway."""
        found = self._look(key_id)
        if found is None or self._clock() >= self._fresh_until:
            with self._asking:
                if self._clock() >= self._ask_at:
                    self._ask()
            found = self._look(key_id) or found
        if found is None:
            raise ProviderAway if self._is_away else UnknownSigningKey
        return found

    def _look(self, key_id: str | None) -> jwt.PyJWK | None:
        known = self._known
        if key_id is None:
            return next(iter(known.values())) if len(known) == 1 else None
        return known.get(key_id)

    def _ask(self) -> None:
        self._ask_at = self._clock() + PAUSE_SECONDS
        try:
            self._known = _keys(_fetch(self._url))
            self._fresh_until, self._is_away = self._clock() + FRESH_SECONDS, False
        except (OSError, ValueError, jwt.PyJWTError) as error:
            logger.warning("the identity provider's keys cannot be fetched: %s", error)
            self._is_away = True


@cache
def from_settings() -> SigningKeys:
    return SigningKeys(settings.JWT_KEYS_URL)


def _fetch(url: str) -> bytes:
    deadline, content = time.monotonic() + WAIT_SECONDS, b""
    with urllib.request.urlopen(url, timeout=WAIT_SECONDS) as answer:
        while chunk := answer.read1(CHUNK):
            content += chunk
            if len(content) > MAX_BYTES or time.monotonic() > deadline:
                raise ValueError("they are too many, or come too slowly")
    return content


def _keys(content: bytes) -> dict[str, jwt.PyJWK]:
    """Return the keys by which a signature can be checked. One that is secret, or of a kind unknown here, is left out.

    Raises ValueError if it is no set of keys.
    """
    told = json.loads(content)
    if not isinstance(told, dict) or not isinstance(told.get("keys"), list):
        raise ValueError("it is no set of keys")
    found = {}
    for number, each in enumerate(told["keys"]):
        if not isinstance(each, dict) or each.get("kty") == SYMMETRIC or each.get("use", "sig") != "sig":
            continue
        try:
            found[str(each.get("kid", number))] = jwt.PyJWK.from_dict(each)
        except (jwt.PyJWTError, ValueError, TypeError, KeyError):
            continue
    return found
