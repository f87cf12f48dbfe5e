"""What becomes of a file: it is received, found, deleted or expired.

A row is written before the bytes, and removed after them, so that no bytes are kept that no row counts. Whatever a
crash leaves behind expires.
"""

from __future__ import annotations

import hashlib
import logging
from datetime import timedelta
from typing import IO
from uuid import UUID

from django.conf import settings
from django.core.files.base import ContentFile
from django.core.files.storage import Storage, storages
from django.db import transaction
from django.db.models import Count, QuerySet, Sum
from django.db.models.functions import Now

from inference import picture_files
from inference.card import ModelCard
from marketplace.accounts.models import Account
from marketplace.files.errors import QuotaReached
from marketplace.files.models import File

# Longer than any upload takes.
UNFINISHED = timedelta(hours=1)

logger = logging.getLogger(__name__)


def receive(account_id: UUID, name: str, content: bytes, card: ModelCard) -> File:
    """Check and keep a picture. Raises InvalidPicture if a model may not have it, and QuotaReached."""
    picture = picture_files.read_image(content, card)
    file = File(
        account_id=account_id,
        name=name,
        media_type=picture_files.media_type(content),
        sha256=hashlib.sha256(content).hexdigest(),
        size=len(content),
        width=picture.width,
        height=picture.height,
    )
    _reserve(file)
    _storage().save(file.path, ContentFile(content))
    File.objects.filter(id=file.id).update(stored=True, expires_at=Now() + timedelta(days=settings.FILE_DAYS))
    return File.objects.get(id=file.id)


def of_account(account_id: UUID) -> QuerySet[File]:
    """Return an account's files that have not expired."""
    return File.objects.filter(account_id=account_id, stored=True, expires_at__gt=Now())


def open_content(file: File) -> IO[bytes]:
    """Open a file's bytes. Raises FileNotFoundError if they were removed meanwhile."""
    return _storage().open(file.path)


def delete(file: File) -> None:
    """Remove a file, which from now on nobody finds."""
    File.objects.filter(id=file.id).update(expires_at=Now())
    _remove(file)


def expire() -> int:
    """Remove the files that have expired, and return how many. One that cannot be removed now holds up no other."""
    removed = 0
    for file in File.objects.filter(expires_at__lte=Now()).order_by("expires_at"):
        try:
            _remove(file)
            removed += 1
        except Exception:
            logger.exception("file %s could not be removed", file.id)
    return removed


def _remove(file: File) -> None:
    _storage().delete(file.path)
    File.objects.filter(id=file.id).delete()


@transaction.atomic
def _reserve(file: File) -> None:
    """Write a file's row if its account has room for it; its uploads are counted one after the other."""
    Account.objects.select_for_update(no_key=True).get(id=file.account_id)
    kept = File.objects.filter(account_id=file.account_id).aggregate(count=Count("id"), size=Sum("size", default=0))
    quota = settings.FILES_ACCOUNT_MB * 1024**2
    if kept["count"] >= settings.FILES_ACCOUNT or kept["size"] + file.size > quota:
        raise QuotaReached(settings.FILES_ACCOUNT, settings.FILES_ACCOUNT_MB)
    file.expires_at = Now() + UNFINISHED
    file.save(force_insert=True)


def _storage() -> Storage:
    return storages["files"]
