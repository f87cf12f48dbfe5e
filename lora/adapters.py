"""Adapters: made, found by those who may use them, shared, deleted. A version is written by `versions`.

Whoever may not see an adapter is told what they would be told if there was none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from django.db import IntegrityError, transaction
from django.db.models import Q, QuerySet
from django.db.models.functions import Now
from psycopg.errors import UniqueViolation

from lora import makers, publications
from lora.errors import SlugTaken, TooManyShared, UnknownAdapter, WordsKept
from lora.models import Adapter, Publication, Shared, Version

# Accounts that one adapter may be shared with.
MOST_SHARED = 100


def create(
    adapter_id: UUID,
    owner: UUID,
    *,
    slug: str,
    name: str,
    base_model: str,
    base_revision: str,
    description: str = "",
    trigger_words: Sequence[str] = (),
) -> Adapter:
    """Make an account's adapter, private and without a version. Raises SlugTaken."""
    maker = makers.ensure(owner)
    try:
        with transaction.atomic():
            return Adapter.objects.create(
                id=adapter_id,
                owner=maker,
                slug=slug,
                name=name,
                description=description,
                trigger_words=list(trigger_words),
                base_model=base_model,
                base_revision=base_revision,
            )
    except IntegrityError as error:
        if not isinstance(error.__cause__, UniqueViolation):
            raise
        raise SlugTaken from error


def own(account: UUID) -> QuerySet[Adapter]:
    """Return the adapters that an account owns."""
    return Adapter.objects.filter(owner_id=account, deleted_at=None).select_related("owner")


def usable(account: UUID) -> QuerySet[Adapter]:
    """Return the adapters that an account may use: its own, those shared with it, and the published ones."""
    return _visible(Q(owner_id=account) | _shared_with(account) | Q(visibility=Adapter.Visibility.PUBLISHED))


def known(account: UUID) -> QuerySet[Adapter]:
    """Return the adapters that an account lists: its own, and those shared with it."""
    return _visible(Q(owner_id=account) | _shared_with(account))


def find(account: UUID, adapter_id: UUID) -> Adapter:
    """Return an adapter that an account owns. Raises UnknownAdapter."""
    found = own(account).filter(id=adapter_id).first()
    if found is None:
        raise UnknownAdapter
    return found


@transaction.atomic
def change(adapter: Adapter, **changes: Any) -> None:
    """Change the name, description or trigger words.

    Raises WordsKept while the adapter is published, or waits to be: the operator approves what everybody will read.
    """
    assert changes.keys() <= {"name", "description", "trigger_words"}
    found = _locked(adapter)
    pending = Publication.objects.filter(adapter=adapter, status=Publication.Status.PENDING)
    if found.visibility == Adapter.Visibility.PUBLISHED or pending.exists():
        raise WordsKept
    Adapter.objects.filter(id=adapter.id).update(**changes)


@transaction.atomic
def share(adapter: Adapter, account: UUID) -> None:
    """Let another account use an adapter; doing so again changes nothing.

    Whether there is such an account is not asked, so that nobody learns it. Raises TooManyShared.
    """
    _locked(adapter)
    if Shared.objects.filter(adapter=adapter).exclude(account=account).count() >= MOST_SHARED:
        raise TooManyShared
    Shared.objects.get_or_create(adapter=adapter, account=account)
    private = Adapter.objects.filter(id=adapter.id, visibility=Adapter.Visibility.PRIVATE)
    private.update(visibility=Adapter.Visibility.SHARED)


@transaction.atomic
def unshare(adapter: Adapter, account: UUID) -> None:
    """Let an account no longer order with an adapter; what it has ordered is still drawn."""
    _locked(adapter)
    Shared.objects.filter(adapter=adapter, account=account).delete()
    if not Shared.objects.filter(adapter=adapter).exists():
        shared = Adapter.objects.filter(id=adapter.id, visibility=Adapter.Visibility.SHARED)
        shared.update(visibility=Adapter.Visibility.PRIVATE)


@transaction.atomic
def delete(adapter: Adapter) -> None:
    """End an adapter for new orders, with all its versions, and forget its words. Again it changes nothing."""
    publications.withdraw(adapter)
    forgotten = {"slug": "deleted", "name": "", "description": "", "trigger_words": [], "tags": []}
    Adapter.objects.filter(id=adapter.id, deleted_at=None).update(deleted_at=Now(), **forgotten)
    Publication.objects.filter(adapter=adapter).exclude(tags=[]).update(tags=[])
    Shared.objects.filter(adapter=adapter).delete()
    Version.objects.filter(adapter=adapter, deleted_at=None).update(deleted_at=Now())


def _visible(condition: Q) -> QuerySet[Adapter]:
    return Adapter.objects.filter(condition, deleted_at=None).select_related("owner")


def _shared_with(account: UUID) -> Q:
    return Q(id__in=Shared.objects.filter(account=account).values("adapter_id"))


def _locked(adapter: Adapter) -> Adapter:
    """Lock an adapter that is not deleted. Raises UnknownAdapter."""
    found = Adapter.objects.select_for_update(no_key=True).filter(id=adapter.id, deleted_at=None).first()
    if found is None:
        raise UnknownAdapter
    return found
