"""The catalogue: which adapters everybody may use, and under which terms."""

from __future__ import annotations

from collections.abc import Iterable
from uuid import UUID

from django.db.models import Avg, Count, Q, QuerySet

from lora.errors import UnknownAdapter
from lora.models import Adapter, Listing, Version


def offered() -> QuerySet[Adapter]:
    """Return the adapters that everybody may use, each with the mean of its `stars` and how many have `rated` it."""
    published = Adapter.objects.filter(visibility=Adapter.Visibility.PUBLISHED, deleted_at=None)
    return published.select_related("owner").annotate(stars=Avg("ratings__stars"), rated=Count("ratings"))


def search(words: str) -> Q:
    """Return the condition that each word is in an adapter's name, description, words, tags or maker's handle."""
    condition = Q()
    for word in words.split():
        condition &= (
            Q(name__icontains=word)
            | Q(description__icontains=word)
            | Q(slug__icontains=word)
            | Q(owner__handle__icontains=word)
            | Q(tags__contains=[word.lower()])
            | Q(trigger_words__contains=[word])
        )
    return condition


def find(handle: str, slug: str) -> Adapter:
    """Return a published adapter. Raises UnknownAdapter."""
    found = offered().filter(owner__handle=handle, slug=slug).first()
    if found is None:
        raise UnknownAdapter
    return found


def listings(adapters: Iterable[Adapter]) -> dict[UUID, Listing]:
    """Return the terms of each adapter's newest version that is listed, by the adapter's id."""
    usable = Listing.objects.filter(
        version__adapter__in=list(adapters),
        version__status=Version.Status.READY,
        version__deleted_at=None,
        ended_at=None,
    )
    newest = usable.select_related("version").order_by("version__adapter_id", "-version__number", "-id")
    return {each.version.adapter_id: each for each in newest.distinct("version__adapter_id")}
