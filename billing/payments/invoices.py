"""Monthly invoices: what was paid in a month (UTC), and what became of the Tokens. Not for how they look.

Everything is read from top-ups and transfers, so an invoice of a past month never changes.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from django.db import connection
from django.db.models import QuerySet
from django.utils import timezone

from billing.errors import NoWallet
from billing.models import Reversal, TopUp, Wallet


@dataclass(frozen=True)
class Invoice:
    """One month of a customer, from `first` until just before `end`; `is_final` once the month is over."""

    number: str
    first: datetime
    end: datetime
    is_final: bool


@dataclass(frozen=True)
class Return:
    """Money of a top-up that was refunded or disputed (negative), or came back to us (positive)."""

    at: datetime
    kind: str
    money_minor: int
    currency: str


@dataclass(frozen=True)
class Figures:
    """An invoice's content: milli-Tokens at both ends of the month, and by kind what came in (positive) or went out.

    `paid` are the month's top-ups; `returned` is the money of any top-up that went back, or came back to us, in it.
    """

    opening: int
    closing: int
    moved: dict[str, int]
    paid: list[TopUp]
    returned: list[Return]


# One snapshot: counts back from the present balance over what has moved since the month began.
_MOVED = """
WITH wallet AS (SELECT id, balance FROM billing_wallet WHERE owner = %(owner)s AND kind = 'customer'),
move AS (
    SELECT kind, amount, created_at FROM billing_transfer
    WHERE target_id = (SELECT id FROM wallet) AND created_at >= %(first)s
    UNION ALL
    SELECT kind, -amount, created_at FROM billing_transfer
    WHERE source_id = (SELECT id FROM wallet) AND created_at >= %(first)s
)
SELECT balance, kind, coalesce(sum(amount) FILTER (WHERE created_at < %(end)s), 0)::bigint,
       coalesce(sum(amount) FILTER (WHERE created_at >= %(end)s), 0)::bigint
FROM wallet LEFT JOIN move ON true GROUP BY balance, kind ORDER BY kind
"""


def months(owner: UUID) -> list[Invoice]:
    """Return an invoice for each month since the customer's wallet was opened, newest first. Raises NoWallet."""
    wallet = Wallet.objects.filter(owner=owner, kind=Wallet.Kind.CUSTOMER).first()
    if wallet is None:
        raise NoWallet(owner)
    now = timezone.now()
    first, found = _first(wallet.created_at), []
    while first <= now:
        end = _first(first + timedelta(days=32))
        found.append(Invoice(f"{first:%Y-%m}-{owner.hex[-12:]}", first, end, end <= now))
        first = end
    return found[::-1]


def figures(owner: UUID, invoice: Invoice) -> Figures:
    """Return what the invoice says."""
    with connection.cursor() as cursor:
        cursor.execute(_MOVED, {"owner": owner, "first": invoice.first, "end": invoice.end})
        rows = cursor.fetchall()
    closing = rows[0][0] - sum(later for *_, later in rows)
    moved = {kind: amount for _, kind, amount, _ in rows if amount}
    mine = TopUp.objects.filter(owner=owner).select_related("pack")
    return Figures(
        opening=closing - sum(moved.values()),
        closing=closing,
        moved=moved,
        paid=list(mine.filter(paid_at__gte=invoice.first, paid_at__lt=invoice.end).order_by("paid_at")),
        returned=_returns(mine.exclude(payment_intent=""), invoice),
    )


def _returns(paid: QuerySet[TopUp], invoice: Invoice) -> list[Return]:
    currencies = dict(paid.values_list("payment_intent", "currency"))
    found = [
        Return(moment, each.kind, sign * each.amount_minor, currencies[each.payment_intent])
        for each in Reversal.objects.filter(payment_intent__in=currencies, since__lt=invoice.end)
        for moment, sign in ((each.since, -1), (each.until, 1))
        if moment and invoice.first <= moment < invoice.end
    ]
    return sorted(found, key=lambda each: each.at)


def _first(moment: datetime) -> datetime:
    return moment.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
