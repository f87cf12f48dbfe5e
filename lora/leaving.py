"""An account that leaves for good: its adapters end, its handle is nobody's any more, what it said is forgotten.

What others ordered is still drawn, since versions are deleted and their files kept as long as jobs need them.
"""

from __future__ import annotations

from uuid import UUID

from django.db import transaction

from lora import adapters, makers, opinions
from lora.models import Shared


@transaction.atomic
def leave(account: UUID) -> None:
    """Delete what an account owns, end what others share with it, and forget its words. Again it changes nothing."""
    for adapter in adapters.own(account):
        adapters.delete(adapter)
    Shared.objects.filter(account=account).delete()
    opinions.forget(account)
    makers.retire(account)
