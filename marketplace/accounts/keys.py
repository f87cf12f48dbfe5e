"""Issues, looks up and revokes API keys. The secret is shown once, by `issue`, and stored hashed."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from datetime import timedelta
from uuid import UUID

from django.db.models import Q
from django.utils import timezone

from marketplace.accounts.models import Account, ApiKey

KEY_FORMAT = re.compile(r"kiln_([a-z0-9]{12})_([A-Za-z0-9_-]{43})")
PREFIX_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
LAST_USED_RESOLUTION = timedelta(minutes=1)


def issue(account: Account, name: str) -> tuple[ApiKey, str]:
    """A new key, and its full text, which nothing can show again."""
    prefix = "".join(secrets.choice(PREFIX_LETTERS) for _ in range(12))
    secret = secrets.token_urlsafe(32)
    key = ApiKey.objects.create(account=account, name=name, prefix=prefix, secret_hash=_digest(secret))
    return key, f"kiln_{prefix}_{secret}"


def find(text: str) -> ApiKey | None:
    """The live key with this full text, its account loaded; None for anything else."""
    parts = KEY_FORMAT.fullmatch(text)
    if parts is None:
        return None
    key = (
        ApiKey.objects.select_related("account")
        .filter(prefix=parts[1], revoked_at=None, account__is_active=True)
        .first()
    )
    if key is None or not hmac.compare_digest(bytes(key.secret_hash), _digest(parts[2])):
        return None
    return key


def touch(key: ApiKey) -> None:
    """Notes that the key was used, at most once a minute, so that reads stay reads."""
    now = timezone.now()
    if key.last_used_at is None or now - key.last_used_at > LAST_USED_RESOLUTION:
        stale = Q(last_used_at=None) | Q(last_used_at__lt=now - LAST_USED_RESOLUTION)
        ApiKey.objects.filter(stale, id=key.id).update(last_used_at=now)


def revoke(account_id: UUID, key_id: UUID) -> ApiKey | None:
    """Ends the key at once; revoking it again changes nothing. None where the account has no such key."""
    ApiKey.objects.filter(id=key_id, account_id=account_id, revoked_at=None).update(revoked_at=timezone.now())
    return ApiKey.objects.filter(id=key_id, account_id=account_id).first()


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()
