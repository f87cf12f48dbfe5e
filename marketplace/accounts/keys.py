"""API keys: issued, looked up and revoked. The secret is shown once, by `issue`, and stored hashed."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import time
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

from django.db.models.functions import Now

from billing.prepared import run
from marketplace.accounts.models import ApiKey

KEY_FORMAT = re.compile(r"kiln_([a-z0-9]{12})_([A-Za-z0-9_-]{43})")
PREFIX_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"


_KNOWN = """
FROM accounts_apikey AS key JOIN accounts_account AS account ON account.id = key.account_id
JOIN accounts_person AS owner ON owner.id = account.owner_id
WHERE key.revoked_at IS NULL AND """
_LIVE = f"{_KNOWN} account.is_active AND owner.is_active AND "

# Every request begins with this query, and the ORM would take longer to build it than the server to answer it.
_FIND = f"""
SELECT key.id, key.account_id, key.last_used_at IS NULL OR key.last_used_at < now() - interval '1 minute',
       key.secret_hash, account.is_active AND owner.is_active
{_KNOWN} key.prefix = %(prefix)s
"""
_CONFIRM = f"SELECT account.is_active AND owner.is_active {_KNOWN} key.id = %(id)s"

# Those keys of a CTE `wanted (api_key_id)` that work, and whether they or their account have a spend cap, for
# statements that act for a recalled key.
LIVE_CTE = f"""
live_key AS MATERIALIZED (
    SELECT key.id AS api_key_id, true AS is_live,
           coalesce(key.daily_cap, key.monthly_cap, account.daily_cap, account.monthly_cap) IS NOT NULL AS is_capped
    {_LIVE} key.id = ANY (ARRAY(SELECT api_key_id FROM wanted))
)"""

REMEMBERED_SECONDS = 10.0
REMEMBERED_KEYS = 10_000


class Revoked(Exception):
    """The key worked a moment ago, but no longer does."""


class SwitchedOff(Exception):
    """The key is right, but the operator has switched its account off, or the person who owns it."""


@dataclass(frozen=True, slots=True)
class LiveKey:
    """A key that works; `stale` if its last use was noted more than a minute ago."""

    id: UUID
    account_id: UUID
    stale: bool


_remembered: dict[bytes, tuple[float, LiveKey]] = {}


def issue(account_id: UUID, name: str, **caps: int | None) -> tuple[ApiKey, str]:
    """Create a key, with `daily_cap` and `monthly_cap`, and return it with its full text, which is not stored."""
    prefix = "".join(secrets.choice(PREFIX_LETTERS) for _ in range(12))
    secret = secrets.token_urlsafe(32)
    key = ApiKey.objects.create(account_id=account_id, name=name, prefix=prefix, secret_hash=_digest(secret), **caps)
    return key, f"kiln_{prefix}_{secret}"


def find(text: str) -> LiveKey | None:
    """Return the live key with this full text; None for anything else. Raises SwitchedOff."""
    parts = KEY_FORMAT.fullmatch(text)
    if parts is None:
        return None
    row = run(_FIND, {"prefix": parts[1]})
    if row is None or not hmac.compare_digest(bytes(row[3]), _digest(parts[2])):
        return None
    if not row[4]:
        raise SwitchedOff
    return LiveKey(*row[:3])


def recall(text: str) -> LiveKey | None:
    """Find a key like `find`, but trust one that worked within the last seconds.

    The caller must check it again, with LIVE_CTE or `confirm`, before it does anything for the key.
    """
    now, digest = time.monotonic(), _digest(text)
    known = _remembered.get(digest)
    if known and known[0] > now:
        return known[1]
    key = find(text)
    if key:
        if len(_remembered) >= REMEMBERED_KEYS:
            _remembered.clear()
        _remembered[digest] = now + REMEMBERED_SECONDS, replace(key, stale=False)
    return key


def confirm(key_id: UUID) -> None:
    """Check that the key still works. Raises Revoked or SwitchedOff if it does not."""
    row = run(_CONFIRM, {"id": key_id})
    if row is None:
        raise Revoked
    if not row[0]:
        raise SwitchedOff


def touch(key: LiveKey) -> None:
    """Note that the key was used, at most once a minute, so that reading rarely causes a write."""
    if key.stale:
        ApiKey.objects.filter(id=key.id).update(last_used_at=Now())


def change(account_id: UUID, key_id: UUID, **values: Any) -> ApiKey | None:
    """Change a key's `name`, `daily_cap` or `monthly_cap`; None if the account has no such key."""
    mine = ApiKey.objects.filter(id=key_id, account_id=account_id)
    if values:
        mine.update(**values)
    return mine.first()


def revoke(account_id: UUID, key_id: UUID) -> ApiKey | None:
    """Revoke a key at once; revoking it again changes nothing. None if the account has no such key."""
    ApiKey.objects.filter(id=key_id, account_id=account_id, revoked_at=None).update(revoked_at=Now())
    return ApiKey.objects.filter(id=key_id, account_id=account_id).first()


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()
