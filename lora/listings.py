"""Listings: under which terms a version may be used by everybody. The newest of a version holds, until it ends."""

from __future__ import annotations

from django.db import transaction
from django.db.models.functions import Now

from billing.models import Wallet
from billing.tokens import wallets
from lora import versions
from lora.errors import UnknownAdapter, UnknownVersion
from lora.models import Adapter, Listing, Shared, Version


@transaction.atomic
def publish(version: Version, *, fee: int, share: int, licence: str) -> Listing:
    """Let everybody use a version under these terms, in thousandths.

    Raises UnknownAdapter or UnknownVersion if it was deleted.
    """
    adapter = Adapter.objects.select_for_update(no_key=True).get(id=version.adapter_id)
    if adapter.deleted_at:
        raise UnknownAdapter
    if not versions.ready().filter(id=version.id).exists():
        raise UnknownVersion
    Adapter.objects.filter(id=adapter.id).update(visibility=Adapter.Visibility.PUBLISHED)
    wallets.create(adapter.owner_id, Wallet.Kind.CREATOR)
    return Listing.objects.create(version=version, fee=fee, share=share, licence=licence)


@transaction.atomic
def withdraw(adapter: Adapter) -> None:
    """End all of an adapter's versions for the orders of everybody but its owner and those it is shared with."""
    Adapter.objects.select_for_update(no_key=True).get(id=adapter.id)
    Listing.objects.filter(version__adapter=adapter, ended_at=None).update(ended_at=Now())
    shared = Shared.objects.filter(adapter=adapter).exists()
    after = Adapter.Visibility.SHARED if shared else Adapter.Visibility.PRIVATE
    Adapter.objects.filter(id=adapter.id, visibility=Adapter.Visibility.PUBLISHED).update(visibility=after)


def terms(version: Version) -> Listing | None:
    """Return the terms that hold for a version; None if it is not published."""
    return Listing.objects.filter(version=version, ended_at=None).order_by("-id").first()
