"""The sites whose scripts may read what the API answers to an account."""

from __future__ import annotations

from collections.abc import Collection
from uuid import UUID

from django.db import transaction

from marketplace.accounts.models import Account, Origin


@transaction.atomic
def replace(account_id: UUID, origins: Collection[str]) -> None:
    """Make these an account's sites, and no others."""
    Account.objects.select_for_update(no_key=True).get(id=account_id)
    mine = Origin.objects.filter(account_id=account_id)
    mine.exclude(origin__in=origins).delete()
    known = set(mine.values_list("origin", flat=True))
    Origin.objects.bulk_create(Origin(account_id=account_id, origin=each) for each in origins if each not in known)
