"""Months and their documents: what was paid, what of it went back, and what became of the Tokens. Not for their looks.

A month is closed once, under the lock of its wallet and in one transaction, as soon as the database's clock has passed
its end. Whatever belongs to it was written under the same lock with a time before the end, so nothing can be missing
and nothing follows (`ledger.moment`). Closing freezes the figures and the parties, and numbers the documents: for each
currency an invoice of the payments, and a credit note of the money that went back. Until then a month says so far.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import groupby, islice
from operator import itemgetter
from typing import Any, cast
from uuid import UUID

from django.conf import settings
from django.db import connection, transaction
from django.db.models import Max, QuerySet
from django.db.models.functions import Now

from billing import clock
from billing.errors import NoWallet
from billing.models import Invoice, Month, Reversal, TopUp, Wallet
from billing.payments import reversals

# No month is shorter, whatever its time zone and those before it.
SHORTEST = timedelta(days=26)
GROUP = 500
Line = dict[str, Any]

logger = logging.getLogger(__name__)

# The wallet's transfers after one id, in id order up to the last that was made before `end`.
_MOVED = """
WITH wallet AS (SELECT id FROM billing_wallet WHERE owner = %(owner)s AND kind = 'customer'),
move AS (
    SELECT id, kind, amount, created_at FROM billing_transfer
    WHERE target_id = (SELECT id FROM wallet) AND id > %(after)s
    UNION ALL
    SELECT id, kind, -amount, created_at FROM billing_transfer
    WHERE source_id = (SELECT id FROM wallet) AND id > %(after)s
),
last AS (SELECT max(id) AS id FROM move WHERE created_at < %(end)s)
SELECT kind, sum(amount)::bigint, last.id FROM move, last WHERE move.id <= last.id GROUP BY kind, last.id ORDER BY kind
"""


@dataclass(frozen=True)
class Customer:
    """Whom a month is for, as named on documents; `end_of_month` returns when a month that begins then ends."""

    name: str
    email: str
    zone: str
    end_of_month: Callable[[datetime], datetime]


def months(owner: UUID, customer: Customer) -> list[tuple[Month, list[Invoice]]]:
    """Return the customer's months with their documents, newest first; the first is not closed. Raises NoWallet."""
    closed = list(Month.objects.filter(owner=owner).prefetch_related("invoices").order_by("-first"))
    return [_draft(owner, customer), *((month, sorted(month.invoices.all(), key=_order)) for month in closed)]


def close_due(customers: Callable[[Collection[UUID]], Mapping[UUID, Customer]]) -> int:
    """Close the months that are over, of the owners that `customers` knows; return how many. Failures are logged."""
    begun = Month.objects.values("owner").annotate(last=Max("end"))
    lately = begun.filter(last__gt=Now() - SHORTEST).values("owner")
    owners = Wallet.objects.filter(kind=Wallet.Kind.CUSTOMER).exclude(owner__in=lately)
    closed = 0
    for group in _groups(owners.values_list("owner", flat=True).order_by("id").iterator(GROUP)):
        for owner, customer in customers(group).items():
            try:
                while _next(owner, customer)[1] <= clock.now() and close(owner, customers):
                    closed += 1
            except Exception:
                logger.exception("the month of %s", owner)
    return closed


@transaction.atomic
def close(owner: UUID, customers: Callable[[Collection[UUID]], Mapping[UUID, Customer]]) -> bool:
    """Close the customer's oldest open month; return False if it is not over. Raises NoWallet.

    The customer is looked up once the wallet is locked, which a change of the time zone locks too.
    """
    Wallet.objects.select_for_update(no_key=True).get(owner=owner, kind=Wallet.Kind.CUSTOMER)
    customer = customers([owner])[owner]
    if _next(owner, customer)[1] > clock.now():
        return False
    month, documents = _draft(owner, customer)
    month.save()
    for document in documents:  # invoices first
        if document.kind == Invoice.Kind.CREDIT_NOTE:
            document.lines = [{**line, "invoice": _invoice_of(owner, line["top_up"])} for line in document.lines]
        document.month = month
        document.save()
    return True


def _invoice_of(owner: UUID, top_up: str) -> str:
    """Return the number of the invoice for a top-up."""
    issued = Invoice.objects.filter(kind=Invoice.Kind.INVOICE, month__owner=owner, lines__contains=[{"top_up": top_up}])
    return issued.order_by("number")[0].name


def _draft(owner: UUID, customer: Customer) -> tuple[Month, list[Invoice]]:
    """Return the oldest open month and its documents, without numbers. Raises NoWallet."""
    first, end, last = _next(owner, customer)
    opening, after = (last.closing, last.last_transfer_id) if last else (0, 0)
    with connection.cursor() as cursor:
        cursor.execute(_MOVED, {"owner": owner, "after": after, "end": end})
        rows = cursor.fetchall()
    moved = {kind: amount for kind, amount, _ in rows}
    month = Month(
        owner=owner, first=first, end=end, zone=customer.zone, opening=opening, moved=moved,
        closing=opening + sum(moved.values()), last_transfer_id=rows[0][2] if rows else after,
    )  # fmt: skip
    found: dict[tuple[str, str], list[Line]] = {}
    for kind, currency, line in sorted(_lines(owner, first, end), key=lambda each: each[2]["at"]):
        found.setdefault((kind, currency), []).append(line)
    documents = [_document(month, kind, currency, lines, customer) for (kind, currency), lines in found.items()]
    return month, sorted(documents, key=_order)


def _next(owner: UUID, customer: Customer) -> tuple[datetime, datetime, Month | None]:
    """Return the beginning and the end of the oldest open month, and the month before."""
    last = Month.objects.filter(owner=owner).order_by("-first").first()
    wallet = Wallet.objects.filter(owner=owner, kind=Wallet.Kind.CUSTOMER).first()
    if wallet is None:
        raise NoWallet(owner)
    first = last.end if last else wallet.created_at
    return first, customer.end_of_month(first), last


def _document(month: Month, kind: str, currency: str, lines: list[Line], customer: Customer) -> Invoice:
    taxes = [line["tax_minor"] for line in lines]
    return Invoice(
        month=month, kind=kind, currency=currency, lines=lines,
        total_minor=sum(line["amount_minor"] for line in lines), tax_minor=None if None in taxes else sum(taxes),
        seller={"name": settings.SELLER_NAME, "address": settings.SELLER_ADDRESS, "tax_id": settings.SELLER_TAX_ID},
        buyer={"name": customer.name, "email": customer.email},
    )  # fmt: skip


def _lines(owner: UUID, first: datetime, end: datetime) -> Iterator[tuple[str, str, Line]]:
    """Yield each line of the month with its document's kind and currency."""
    paid = TopUp.objects.filter(owner=owner, paid_at__lt=end).select_related("pack")
    for top_up in paid.filter(paid_at__gte=first):
        pack, amounts = top_up.pack, (top_up.price_minor, top_up.tax_minor)
        line = _line(top_up, _paid_at(top_up), f"Token pack {pack.name}", amounts, pack.tokens + pack.bonus)
        yield Invoice.Kind.INVOICE, top_up.currency, line
    for top_up, reversal, at, credited, before in _changes(paid):
        if first <= at < end:
            went = credited > before
            text = f"{'Returned' if went else 'Received again'} ({reversal.kind})"
            kind = Invoice.Kind.CREDIT_NOTE if went else Invoice.Kind.INVOICE
            amounts = abs(credited - before), _tax(top_up, credited, before)
            yield kind, top_up.currency, _line(top_up, at, text, amounts)


def _changes(paid: QuerySet[TopUp]) -> Iterator[tuple[TopUp, Reversal, datetime, int, int]]:
    """Yield whenever more or less of a top-up's price was away: the reversal, when, how much then, and before.

    Several reversals of one payment take no more than its price. What was known before the payment counts with it.
    """
    found: dict[str, list[Reversal]] = {}
    for reversal in Reversal.objects.filter(payment_intent__in=paid.values("payment_intent"), since__isnull=False):
        found.setdefault(reversal.payment_intent, []).append(reversal)
    for top_up in paid.filter(payment_intent__in=found):
        moves = [
            (max(moment, _paid_at(top_up)), each.id, each, sign * reversals.amount_of(each, top_up))
            for each in found[top_up.payment_intent]
            for moment, sign in ((each.since, 1), (each.until, -1))
            if moment
        ]
        away = before = 0
        for at, group in groupby(sorted(moves, key=lambda move: move[:2]), key=itemgetter(0)):
            together = list(group)
            away += sum(amount for *_, amount in together)
            credited = min(away, top_up.price_minor)
            if credited != before:
                reversal = next(each for *_, each, amount in reversed(together) if (amount > 0) == (credited > before))
                yield top_up, reversal, at, credited, before
            before = credited


def _tax(top_up: TopUp, credited: int, before: int) -> int | None:
    """Return the share of the tax in what went back or came again; all shares together are the whole tax."""
    if top_up.tax_minor is None:
        return None
    now, then = (top_up.tax_minor * part // top_up.price_minor for part in (credited, before))
    return abs(now - then)


def _line(top_up: TopUp, at: datetime, text: str, amounts: tuple[int, int | None], tokens: int | None = None) -> Line:
    amount, tax = amounts
    return {
        "at": at.isoformat(), "text": text, "tokens": tokens, "amount_minor": amount, "tax_minor": tax,
        "top_up": str(top_up.id),
    }  # fmt: skip


def _paid_at(top_up: TopUp) -> datetime:
    return cast(datetime, top_up.paid_at)


def _order(document: Invoice) -> tuple[bool, str]:
    return document.kind != Invoice.Kind.INVOICE, document.currency


def _groups(owners: Iterator[UUID | None]) -> Iterator[list[UUID]]:
    while group := [owner for owner in islice(owners, GROUP) if owner]:
        yield group
