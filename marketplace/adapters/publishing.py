"""What operators decide on publications, told to their makers in the transaction in which it happens."""

from __future__ import annotations

from django.conf import settings
from django.db import transaction

from lora import publications
from lora.models import Adapter, Publication
from marketplace.webhooks import events
from marketplace.webhooks.models import EventType


@transaction.atomic
def approve(publication: Publication) -> bool:
    """Publish under the operator's share; return False if it was decided before.

    Raises UnknownAdapter if the adapter was deleted meanwhile.
    """
    if not publications.approve(publication, settings.MARKET_SHARE):
        return False
    _tell(publication, EventType.PUBLICATION_APPROVED)
    return True


@transaction.atomic
def refuse(publication: Publication, reason: str) -> bool:
    """Refuse for a reason; return False if it was decided before."""
    if not publications.refuse(publication, reason):
        return False
    _tell(publication, EventType.PUBLICATION_REFUSED, reason=reason[:500])
    return True


@transaction.atomic
def take_down(adapter: Adapter, reason: str) -> None:
    """End an adapter's publication against its maker's will; again it changes nothing."""
    for publication in publications.withdraw(adapter, reason):
        _tell(publication, EventType.PUBLICATION_WITHDRAWN, reason=reason[:500])


def _tell(publication: Publication, kind: EventType, **more: str) -> None:
    adapter = publication.adapter
    data = {"adapter": str(adapter.id), "slug": adapter.slug, "version": publication.version.number, **more}
    events.tell(adapter.owner_id, kind, data=data)
