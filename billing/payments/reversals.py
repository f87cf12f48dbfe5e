"""Reversals: a refund or dispute takes its Tokens back, and money that comes back to us returns them.

They are written down even if their payment is not known yet. Not for who reports them (events, refunds).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db import connection, transaction
from django.db.models import QuerySet
from django.db.models.functions import Now

from billing.models import Clawback, Lot, Reversal, TopUp
from billing.tokens import debts, ledger, wallets

Document = dict[str, Any]


def write_down(kind: Reversal.Kind, source: Document, standing: bool, final: bool) -> str | None:
    """Write down whether this money is away, unless that is final already, and let the Tokens follow."""
    intent = source["payment_intent"]
    if not intent or not source["amount"]:
        return None
    lock_payment(intent)
    terms = {"kind": kind, "payment_intent": intent, "amount_minor": source["amount"]}
    reversal = _ours(source, terms)
    if reversal is None:
        more = {"currency": source.get("currency", "")}
        reversal, _ = Reversal.objects.get_or_create(id=source["id"], defaults=terms | more)
    paid = TopUp.objects.filter(payment_intent=intent, paid_at__isnull=False)
    top_up = paid.select_for_update(of=("self",)).first()
    if top_up is None:
        _note(reversal, standing, final, Now())
        return None
    with ledger.moment(top_up.owner) as now:
        _note(reversal, standing, final, now)
        return follow(top_up)


def _note(reversal: Reversal, standing: bool, final: bool, now: datetime | Now) -> None:
    # Once money was taken, it comes back for good or not at all; a report of an open inquiry is outdated then.
    if not reversal.final and (standing or final or not reversal.standing):
        if standing != reversal.standing:
            setattr(reversal, "since" if standing else "until", now)
        reversal.standing, reversal.final = standing, final
        reversal.save()


def amount_of(reversal: Reversal, top_up: TopUp) -> int:
    """Return how much of a top-up's price went back; all of it if that was stated in another currency."""
    return reversal.amount_minor if reversal.currency in ("", top_up.currency) else top_up.price_minor


def _ours(source: Document, terms: Document) -> Reversal | None:
    """Return the refund that we requested, whose Tokens were taken before, unless we gave up and returned them."""
    reversals = Reversal.objects.filter(id=(source.get("metadata") or {}).get("reversal"), **terms)
    reversals.filter(stripe_id="", final=False).update(stripe_id=source["id"])
    return reversals.filter(stripe_id=source["id"]).first()


def claw_backs(reversal_id: str) -> QuerySet[Clawback]:
    """Return all claw-backs ever made for this reversal: their keys begin with its id."""
    return Clawback.objects.filter(idempotency_key__startswith=f"{reversal_id}:")


@contextmanager
def reversing(top_up_id: UUID) -> Iterator[tuple[TopUp, datetime]]:
    """Lock a top-up against its own events, and yield it with the time of what is written meanwhile.

    At the end, its Tokens follow the reversals that were written down.
    """
    with transaction.atomic():
        lock_payment(TopUp.objects.get(id=top_up_id).payment_intent)
        top_up = TopUp.objects.select_for_update(of=("self",)).get(id=top_up_id)
        with ledger.moment(top_up.owner) as now:
            yield top_up, now
            follow(top_up)


def follow(top_up: TopUp) -> str | None:
    """Take Tokens for money that is away and return them for money that came back; return what changed, in words."""
    changed = []
    reversals = list(Reversal.objects.filter(payment_intent=top_up.payment_intent).order_by("created_at"))
    # Returns come first: a standing reversal may have found nothing left to take before.
    for reversal in sorted(reversals, key=lambda reversal: reversal.standing):
        moved = (_take if reversal.standing else _give_back)(top_up, reversal)
        if moved or reversal.standing != reversal.applied:
            reversal.applied = reversal.standing
            reversal.save()
            changed.append(f"{reversal}: Tokens {'taken' if reversal.standing else 'returned'}")
    standing = [reversal for reversal in reversals if reversal.standing]
    refunded = sum(amount_of(reversal, top_up) for reversal in standing if reversal.kind == Reversal.Kind.REFUND)
    top_up.refunded_minor = min(refunded, top_up.price_minor)
    if any(reversal.kind == Reversal.Kind.DISPUTE for reversal in standing):
        top_up.status = TopUp.Status.DISPUTED
    elif top_up.refunded_minor == top_up.price_minor:
        top_up.status = TopUp.Status.REFUNDED
    else:
        top_up.status = TopUp.Status.PARTIALLY_REFUNDED if refunded else TopUp.Status.PAID
    top_up.save()
    return f"{top_up}: {', '.join(changed)}" if changed else None


def _take(top_up: TopUp, reversal: Reversal) -> bool:
    """Claw back from the payment's lots, at most what they cost, and the same share of the bonus.

    Takes only what was not taken for this reversal before; returns whether there was any. The share of the bonus is
    rounded down over all that is away together, so the part that completes the price takes what is left of it.
    """
    key = f"{reversal.id}:{claw_backs(reversal.id).count()}"
    left = missing = amount_of(reversal, top_up) - sum(each.money_minor for each in _standing(claw_backs(reversal.id)))
    if not left:
        return False
    taken = _standing(Clawback.objects.filter(lot__transfer__reference=top_up.id))
    away = min(left + sum(each.money_minor for each in taken), top_up.price_minor)
    bonus = sum(each.amount for each in taken if each.lot.kind == Lot.Kind.GRANTED)
    share = top_up.pack.bonus * away // top_up.price_minor - bonus
    for lot in Lot.objects.filter(transfer__reference=top_up.id).order_by("transfer_id"):
        money, tokens = debts.demanded(lot)
        if lot.kind == Lot.Kind.PAID and (part := min(left, (lot.price_minor or 0) - money)):
            debts.claw_back(lot.id, part, str(reversal), f"{key}:{lot.id}")
            left -= part
        if lot.kind == Lot.Kind.GRANTED and (part := min(share, lot.amount - tokens)) > 0:
            debts.claw_back_bonus(lot.id, part, f"bonus, {reversal}", f"{key}:{lot.id}")
            share -= part
    return left < missing


def _give_back(top_up: TopUp, reversal: Reversal) -> bool:
    """Undo a reversal whose money came back: forgive what is owed, and return what was taken as lots on equal terms."""
    taken = _standing(claw_backs(reversal.id))
    for back in taken:
        debts.void(back.id, f"{reversal} was void")
        back.refresh_from_db()
        owner, key = top_up.owner, _return_key(back)
        if back.collected and back.lot.kind == Lot.Kind.PAID:
            price = max(1, back.money_minor * back.collected // back.amount)
            wallets.purchase(owner, back.collected, price, top_up.currency, key, reference=top_up.id)
        elif back.collected:
            wallets.grant(owner, back.collected, key, "bonus returned", reference=top_up.id)
    return any(back.amount for back in taken)


def _standing(found: QuerySet[Clawback]) -> list[Clawback]:
    """Return those of the claw-backs whose Tokens were not given back."""
    made = found.exclude(settlement=Clawback.Settlement.VOID).select_related("lot")
    returned = wallets.issued(_return_key(back) for back in made)
    return [back for back in made if _return_key(back) not in returned]


def _return_key(back: Clawback) -> str:
    """Return the idempotency key for giving back the Tokens of a claw-back."""
    return f"returned {back.id}"


def lock_payment(payment_intent: str) -> None:
    """Lock a payment until the transaction ends; otherwise it and its refund could miss each other if simultaneous."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(hashtext('payment'), hashtext(%s))", [payment_intent])
