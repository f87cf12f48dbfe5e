"""The public keys of the identity provider, fetched from its JWKS address and kept.

They are fetched anew once they are an hour old, or when a token names one that is not known, but at most once in
PAUSE_SECONDS, by one request. While the provider is away or slow, those that are known go on working.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable
from functools import cache

import jwt
from django.conf import settings

from marketplace.remote import Guard, Unreachable

FRESH_SECONDS = 3600.0
PAUSE_SECONDS = 30.0
WAIT_SECONDS = 3.0
MAX_BYTES = 256 * 1024
SYMMETRIC = "oct"
# The operator says where the provider is: anywhere.
PROVIDER = Guard(lambda _: True, None, plain=True)

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
            self._ask_once(wait=found is None)
            found = self._look(key_id) or found
        if found is None:
            raise ProviderAway if self._is_away else UnknownSigningKey
        return found

    def _look(self, key_id: str | None) -> jwt.PyJWK | None:
        known = self._known
        if key_id is None:
            return next(iter(known.values())) if len(known) == 1 else None
        return known.get(key_id)

    def _ask_once(self, wait: bool) -> None:
        """Ask unless that was done a moment ago; while another request does, `wait` for it or do without."""
        if self._asking.acquire(blocking=wait):
            try:
                if self._clock() >= self._ask_at:
                    self._ask()
            finally:
                self._asking.release()

    def _ask(self) -> None:
        self._ask_at = self._clock() + PAUSE_SECONDS
        try:
            self._known = _keys(_fetch(self._url))
            self._fresh_until, self._is_away = self._clock() + FRESH_SECONDS, False
        except (Unreachable, ValueError, RecursionError) as error:
            logger.warning("the identity provider's keys cannot be fetched: %s", error)
            self._is_away = True


@cache
def from_settings() -> SigningKeys:
    return SigningKeys(settings.JWT_KEYS_URL)


def _fetch(url: str) -> bytes:
    """Return what is there, without following redirects. Raises Unreachable, or ValueError if it is no answer."""
    with PROVIDER.connected(url, WAIT_SECONDS) as (connection, path):
        connection.request("GET", path, headers={"Accept": "application/json", "User-Agent": "Kiln"})
        answer = connection.getresponse()
        content = answer.read(MAX_BYTES + 1)
    if answer.status != 200 or len(content) > MAX_BYTES:
        raise ValueError(f"the answer is {answer.status}, of {len(content)} bytes")
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
