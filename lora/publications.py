"""Publications: a maker asks that everybody may use a version, the operator decides, the maker may end it.

What was approved is a listing, whose terms never change; publishing on other terms is another publication.
"""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from django.db import IntegrityError, transaction
from django.db.models.functions import Now
from psycopg.errors import UniqueViolation

from lora import listings, versions
from lora.errors import FeeOutsideBounds, NotPublishable, PublicationPending
from lora.models import Adapter, Publication


def ask(
    publication_id: UUID,
    adapter: Adapter,
    number: int | None,
    *,
    fee: int,
    licence: str,
    tags: Sequence[str] = (),
    most: int,
) -> Publication:
    """Ask that everybody may use a version, the newest by default, for `fee` thousandths, `most` of which are allowed.

    Raises UnknownVersion, NotPublishable, FeeOutsideBounds or PublicationPending.
    """
    version = versions.pick(adapter, number)
    if not version.may_publish:
        raise NotPublishable("the tier that it was trained in does not include the right to publish it")
    if not 0 <= fee <= most:
        raise FeeOutsideBounds(most)
    try:
        with transaction.atomic():
            return Publication.objects.create(
                id=publication_id, adapter=adapter, version=version, fee=fee, licence=licence, tags=list(tags)
            )
    except IntegrityError as error:
        if not isinstance(error.__cause__, UniqueViolation):
            raise
        raise PublicationPending from error


def latest(adapter: Adapter) -> Publication | None:
    """Return what was last asked for an adapter."""
    return Publication.objects.filter(adapter=adapter).select_related("version").order_by("-created_at", "-id").first()


@transaction.atomic
def approve(publication: Publication, share: int) -> bool:
    """List a pending publication's version; its maker gets `share` thousandths of the fee. False if it is not pending.

    Raises UnknownAdapter or UnknownVersion if it was deleted meanwhile.
    """
    if not _decide(publication, Publication.Status.APPROVED):
        return False
    listings.publish(publication.version, fee=publication.fee, share=share, licence=publication.licence)
    Adapter.objects.filter(id=publication.adapter_id).update(tags=publication.tags)
    return True


def refuse(publication: Publication, reason: str) -> bool:
    """Refuse a pending publication, and say why to its maker; return False if it is not pending."""
    return _decide(publication, Publication.Status.REFUSED, reason)


@transaction.atomic
def withdraw(adapter: Adapter, reason: str = "") -> list[Publication]:
    """End an adapter's publication for new orders, and forget what waits for a decision. Again it changes nothing.

    Return those that were approved and have ended.
    """
    mine = Publication.objects.filter(adapter=adapter)
    mine.filter(status=Publication.Status.PENDING).delete()
    approved = mine.filter(status=Publication.Status.APPROVED).select_related("adapter", "version")
    ended = list(approved.select_for_update(of=("self",), no_key=True))
    approved.update(status=Publication.Status.WITHDRAWN, reason=reason[:500], decided_at=Now())
    listings.withdraw(adapter)
    return ended


def _decide(publication: Publication, status: Publication.Status, reason: str = "") -> bool:
    pending = Publication.objects.filter(id=publication.id, status=Publication.Status.PENDING)
    return bool(pending.update(status=status, reason=reason[:500], decided_at=Now()))
