"""What customers do with published adapters and say of them: uses, ratings by those who bought, reports."""

from __future__ import annotations

from collections.abc import Iterable
from uuid import UUID

from django.db import connection, transaction
from django.db.models.functions import Now

from lora.errors import NotBought
from lora.models import Adapter, Rating, Report, Usage

_COUNT = """
INSERT INTO lora_usage (adapter_id, account, jobs)
SELECT id, %(account)s, 1 FROM lora_adapter AS adapter
WHERE id = ANY(%(ids)s) AND owner_id <> %(account)s
  AND NOT EXISTS (SELECT FROM lora_shared WHERE adapter_id = adapter.id AND account = %(account)s)
ON CONFLICT (adapter_id, account) DO UPDATE SET jobs = lora_usage.jobs + 1
"""
_SUM = """
UPDATE lora_adapter SET uses = counted.jobs
FROM (SELECT adapter_id, sum(jobs)::bigint AS jobs FROM lora_usage GROUP BY adapter_id) AS counted
WHERE lora_adapter.id = counted.adapter_id AND lora_adapter.uses <> counted.jobs
"""


def count(account: UUID, adapter_ids: Iterable[UUID]) -> None:
    """Count a charged job that was drawn with these adapters, in the transaction of the charge.

    Makers, and those with whom they share an adapter, pay no fee: they buy nothing, so neither the catalogue's order
    nor its stars are theirs to make.
    """
    with connection.cursor() as cursor:
        cursor.execute(_COUNT, {"account": account, "ids": sorted(adapter_ids)})


def sum_up() -> int:
    """Bring the uses that the catalogue shows up to date; return of how many adapters they changed."""
    with connection.cursor() as cursor:
        cursor.execute(_SUM)
        return int(cursor.rowcount)


def rate(adapter: Adapter, account: UUID, stars: int) -> Rating:
    """Give an adapter 1 to 5 stars, in place of those given before. Raises NotBought."""
    if adapter.owner_id == account or not Usage.objects.filter(adapter=adapter, account=account).exists():
        raise NotBought
    given = {"stars": stars, "rated_at": Now()}
    Rating.objects.update_or_create(adapter=adapter, account=account, defaults=given)
    return Rating.objects.get(adapter=adapter, account=account)


def forget_rating(adapter: Adapter, account: UUID) -> None:
    """Remove an account's rating, if there is one."""
    Rating.objects.filter(adapter=adapter, account=account).delete()


@transaction.atomic
def report(report_id: UUID, adapter: Adapter, account: UUID, reason: str, text: str) -> Report:
    """Tell the operator what is wrong with an adapter; while a report of this account is open, it is that one."""
    Adapter.objects.select_for_update(no_key=True).get(id=adapter.id)
    found = Report.objects.filter(adapter=adapter, account=account, closed_at=None).first()
    if found:
        return found
    return Report.objects.create(id=report_id, adapter=adapter, account=account, reason=reason, text=text)


def forget(account: UUID) -> None:
    """Forget what an account wrote in its reports; that it reported, and why, stays."""
    Report.objects.filter(account=account).exclude(text="").update(text="")


def close(report: Report, outcome: str) -> bool:
    """Close a report with what became of it; return False if it was closed before."""
    return bool(Report.objects.filter(id=report.id, closed_at=None).update(closed_at=Now(), outcome=outcome[:500]))
