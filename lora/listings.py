"""Listings: under which terms a version may be used by everybody. The newest of a version holds."""

from __future__ import annotations

from django.db import transaction

from billing.models import Wallet
from billing.tokens import wallets
from lora.errors import UnknownAdapter
from lora.models import Adapter, Listing, Shared, Version


@transaction.atomic
def publish(version: Version, *, fee: int, share: int, licence: str) -> Listing:
    """Let everybody use a version under these terms, in thousandths. Raises UnknownAdapter if it was deleted."""
    adapter = Adapter.objects.select_for_update(no_key=True).get(id=version.adapter_id)
    if adapter.deleted_at:
        raise UnknownAdapter
    Adapter.objects.filter(id=adapter.id).update(visibility=Adapter.Visibility.PUBLISHED)
    wallets.create(adapter.owner_id, Wallet.Kind.CREATOR)
    return Listing.objects.create(version=version, fee=fee, share=share, licence=licence)


@transaction.atomic
def withdraw(adapter: Adapter) -> None:
    """End an adapter for the orders of everybody but its owner and those it is shared with."""
    Adapter.objects.select_for_update(no_key=True).get(id=adapter.id)
    shared = Shared.objects.filter(adapter=adapter).exists()
    after = Adapter.Visibility.SHARED if shared else Adapter.Visibility.PRIVATE
    Adapter.objects.filter(id=adapter.id, visibility=Adapter.Visibility.PUBLISHED).update(visibility=after)


def terms(version: Version) -> Listing | None:
    """Return the terms that hold for a version; None if it was never published."""
    return Listing.objects.filter(version=version).order_by("-id").first()
