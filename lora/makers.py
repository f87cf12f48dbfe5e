"""Makers: accounts that have adapters, and the handles by which the public knows them."""

from __future__ import annotations

import secrets
from hashlib import sha256
from uuid import UUID

from django.db import IntegrityError, transaction
from psycopg.errors import UniqueViolation

from billing.models import Wallet
from billing.tokens import wallets
from lora.errors import HandleKept, HandleTaken
from lora.models import Maker, RetiredHandle

# A handle that nobody chose begins so, and so does that of an account that is closed; no chosen one does.
GIVEN = "maker-"
CLOSED = "closed-"
# Words in whose name only the operator speaks; a handle has none of them.
OPERATORS = {
    "admin", "administrator", "api", "billing", "help", "kiln", "moderator", "official", "operator", "platform", "root",
    "security", "staff", "support", "system", "team", "verified",
}  # fmt: skip


def ensure(account: UUID) -> Maker:
    """Return an account as a maker, with a wallet for what it earns, and a given handle if it has none yet."""
    wallets.create(account, Wallet.Kind.CREATOR)
    return Maker.objects.get_or_create(account=account, defaults={"handle": f"{GIVEN}{secrets.token_hex(6)}"})[0]


def choose_handle(account: UUID, handle: str) -> Maker:
    """Give an account the handle that it chose, once. Choosing the same again changes nothing.

    Raises HandleTaken, or HandleKept if it has chosen another before.
    """
    ensure(account)
    if handle.startswith((GIVEN, CLOSED)) or OPERATORS & set(handle.split("-")):
        raise HandleTaken
    if RetiredHandle.objects.filter(digest=_digest(handle)).exists():
        raise HandleTaken
    try:
        with transaction.atomic():
            changed = Maker.objects.filter(account=account, handle__startswith=GIVEN).update(handle=handle)
    except IntegrityError as error:
        if not isinstance(error.__cause__, UniqueViolation):
            raise
        raise HandleTaken from error
    maker = Maker.objects.get(account=account)
    if not changed and maker.handle != handle:
        raise HandleKept
    return maker


@transaction.atomic
def retire(account: UUID) -> None:
    """Take a maker's handle away; nobody gets it again, as others may still order by it."""
    maker = Maker.objects.select_for_update(no_key=True).filter(account=account).first()
    if maker is None or maker.handle.startswith(CLOSED):
        return
    RetiredHandle.objects.get_or_create(digest=_digest(maker.handle))
    Maker.objects.filter(account=account).update(handle=f"{CLOSED}{account.hex}")


def _digest(handle: str) -> bytes:
    return sha256(handle.encode()).digest()
