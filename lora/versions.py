"""Versions of adapters: begun, then ready or refused, each once; used, and deleted.

Not for files: `paths` says where a version's are, in a storage that this package does not know.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from django.db import transaction
from django.db.models import Count, Exists, Max, OuterRef, Q, QuerySet, Sum
from django.db.models.functions import Now

from lora.errors import TooManyVersions, UnknownAdapter, UnknownVersion
from lora.models import Adapter, Listing, Maker, Version

MIB = 1024**2
# Versions that were deleted count for so long, so that no account fills the table.
REMEMBERED = timedelta(days=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What is known of a version once it is ready. `surcharge` and `score` are in thousandths."""

    sha256: str
    size: int
    rank: int
    layers: int
    recipe: Mapping[str, Any] = field(default_factory=dict)
    samples: Sequence[Mapping[str, Any]] = ()
    score: int | None = None
    surcharge: int = 0
    may_publish: bool = True


@transaction.atomic
def begin(adapter: Adapter, origin: Version.Origin, size: int, *, most: int, mebibytes: int) -> Version:
    """Write a version that is still to be checked; `size` is how many bytes it takes until then.

    Raises UnknownAdapter if the adapter was deleted, and TooManyVersions if its owner keeps `most`, or so many MiB.
    """
    Maker.objects.select_for_update(no_key=True).get(account=adapter.owner_id)  # counted one after the other
    if not Adapter.objects.filter(id=adapter.id, deleted_at=None).exists():
        raise UnknownAdapter
    counted = Q(stored=True) | Q(created_at__gt=Now() - REMEMBERED)
    kept = Version.objects.filter(counted, adapter__owner_id=adapter.owner_id)
    sums = kept.aggregate(count=Count("id"), size=Sum("size", filter=Q(stored=True), default=0))
    if sums["count"] >= most or sums["size"] + size > mebibytes * MIB:
        raise TooManyVersions(most, mebibytes)
    last = Version.objects.filter(adapter=adapter).aggregate(last=Max("number", default=0))["last"]
    return Version.objects.create(adapter=adapter, number=last + 1, origin=origin, size=size)


def accept(version: Version, facts: Facts) -> bool:
    """Make a version ready; return False if it is not being checked any more."""
    checking = Version.objects.filter(id=version.id, status=Version.Status.CHECKING, deleted_at=None)
    return bool(
        checking.update(
            status=Version.Status.READY,
            sha256=facts.sha256,
            size=facts.size,
            rank=facts.rank,
            layers=facts.layers,
            recipe=dict(facts.recipe),
            samples=list(facts.samples),
            score=facts.score,
            surcharge=facts.surcharge,
            may_publish=facts.may_publish,
        )
    )


def refuse(version: Version, reason: str) -> bool:
    """Say why a version cannot be used, and forget what came with it; False if it is not being checked any more."""
    checking = Version.objects.filter(id=version.id, status=Version.Status.CHECKING, deleted_at=None)
    return bool(checking.update(status=Version.Status.REFUSED, reason=reason[:500], recipe={}))


def ready() -> QuerySet[Version]:
    """Return the versions that may be ordered."""
    return Version.objects.filter(status=Version.Status.READY, deleted_at=None, adapter__deleted_at=None)


def pick(adapter: Adapter, number: int | None = None, *, listed: bool = False) -> Version:
    """Return an adapter's version of this number, else its newest, that is ready, and `listed` if it must be.

    Raises UnknownVersion.
    """
    found = ready().filter(adapter=adapter, **({} if number is None else {"number": number}))
    if listed:
        found = found.filter(Exists(Listing.objects.filter(version=OuterRef("id"), ended_at=None)))
    version = found.order_by("-number").first()
    if version is None:
        raise UnknownVersion
    return version


def delete(adapter: Adapter, number: int) -> None:
    """End a version for new orders; deleting it again changes nothing. Raises UnknownVersion."""
    found = Version.objects.filter(adapter=adapter, number=number)
    if not found.filter(deleted_at=None).update(deleted_at=Now()) and not found.exists():
        raise UnknownVersion


def forget_file(version: Version) -> None:
    """Note that a version's file is not stored any more; it must have been deleted, or refused."""
    Version.objects.filter(id=version.id).update(stored=False)
