"""What becomes of a file: it is received, found, deleted or expired.

A row is written before the bytes, and removed after them, so that no bytes are kept that no row counts. Whatever a
crash leaves behind expires.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Container
from datetime import timedelta
from typing import IO
from uuid import UUID

from django.conf import settings
from django.core.files.base import ContentFile
from django.core.files.storage import Storage, storages
from django.db import transaction
from django.db.models import Count, QuerySet, Sum
from django.db.models.functions import Greatest, Now

from billing.tokens import wallets
from inference import picture_files
from inference.card import ModelCard
from marketplace.accounts import tiers
from marketplace.accounts.models import Account
from marketplace.files.errors import QuotaReached, UnknownFile
from marketplace.files.models import File

# Longer than any upload takes, and longer than it takes to buy with a picture that came with the order.
UNFINISHED = timedelta(hours=1)

logger = logging.getLogger(__name__)


def check(content: bytes, card: ModelCard) -> File:
    """Return a picture's row, of no account yet. Raises InvalidPicture if a model may not have the picture."""
    picture = picture_files.read_image(content, card)
    return File(
        media_type=picture_files.media_type(content),
        sha256=hashlib.sha256(content).hexdigest(),
        size=len(content),
        width=picture.width,
        height=picture.height,
    )


def receive(account_id: UUID, name: str, content: bytes, card: ModelCard) -> File:
    """Check and keep a picture. Raises InvalidPicture if a model may not have it, and QuotaReached."""
    file = check(content, card)
    file.account_id, file.name = account_id, name
    _keep(file, content)
    File.objects.filter(id=file.id).update(stored=True, expires_at=Now() + timedelta(days=settings.FILE_DAYS))
    return File.objects.get(id=file.id)


def receive_inline(account_id: UUID, file: File, content: bytes) -> File:
    """Keep a picture, which was checked, for an order that brings it, unless its content is kept already.

    It is removed an hour later, or when its last order has ended. Raises QuotaReached.
    """
    if kept := of_account(account_id).filter(sha256=file.sha256).first():
        File.objects.filter(id=kept.id).update(expires_at=Greatest("expires_at", Now() + UNFINISHED))
        return kept
    file.account_id, file.name, file.inline = account_id, file.sha256[:16], True
    _keep(file, content)
    File.objects.filter(id=file.id).update(stored=True)
    return file


def find(account_id: UUID, file_id: str) -> File:
    """Return one of an account's files. Raises UnknownFile."""
    try:
        return of_account(account_id).get(id=UUID(file_id))
    except (ValueError, File.DoesNotExist) as error:
        raise UnknownFile from error


def read(file_id: UUID) -> bytes:
    """Return the bytes of a file, expired or not. Raises FileNotFoundError if they were removed."""
    file = File.objects.filter(id=file_id).first()
    if file is None:
        raise FileNotFoundError(file_id)
    with open_content(file) as opened:
        return opened.read()


def of_account(account_id: UUID) -> QuerySet[File]:
    """Return an account's files that have not expired."""
    return File.objects.filter(account_id=account_id, stored=True, expires_at__gt=Now())


def open_content(file: File) -> IO[bytes]:
    """Open a file's bytes. Raises FileNotFoundError if they were removed meanwhile."""
    return _storage().open(file.path)


def delete(file: File, in_use: Container[UUID]) -> None:
    """Hide a file, which from now on nobody finds, and remove it unless it is in use; `expire` does that later."""
    File.objects.filter(id=file.id).update(expires_at=Now())
    if file.id not in in_use:
        _remove(file)


def delete_all(account_id: UUID) -> None:
    """Remove all of an account's files. Raises what the storage raises; call it again then."""
    for file in File.objects.filter(account_id=account_id):
        _remove(file)


def expire(in_use: Container[UUID]) -> int:
    """Remove the files that have expired and are not in use, and return how many.

    One that cannot be removed now holds up no other.
    """
    removed = 0
    for file in File.objects.filter(expires_at__lte=Now()).order_by("expires_at"):
        if file.id in in_use:
            continue
        try:
            _remove(file)
            removed += 1
        except Exception:
            logger.exception("file %s could not be removed", file.id)
    return removed


def _remove(file: File) -> None:
    _storage().delete(file.path)
    File.objects.filter(id=file.id).delete()


def _keep(file: File, content: bytes) -> None:
    _reserve(file)
    _storage().save(file.path, ContentFile(content))


@transaction.atomic
def _reserve(file: File) -> None:
    """Write a file's row if its account has room for it; its uploads are counted one after the other."""
    Account.objects.select_for_update(no_key=True).get(id=file.account_id)
    kept = File.objects.filter(account_id=file.account_id).aggregate(count=Count("id"), size=Sum("size", default=0))
    limits, funds = tiers.of(file.account_id), wallets.balance(file.account_id)
    most = limits.files if funds.available + funds.held > 0 else min(limits.files, limits.files_unfunded)
    if kept["count"] >= most or kept["size"] + file.size > limits.files_mb * 1024**2:
        raise QuotaReached(most, limits.files_mb, funded=most == limits.files)
    file.expires_at = Now() + UNFINISHED
    file.save(force_insert=True)


def _storage() -> Storage:
    return storages["files"]
