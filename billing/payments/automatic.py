"""Automatic top-ups: a pack is bought with the saved card whenever too few Tokens are left. Amounts as in the tables.

The top-up's row comes first, in a transaction of its own, and only if none is pending and the cap allows it. Then
Stripe is asked, with the same keys until it has answered (cards). Tokens are credited by Stripe's event, as for every
top-up. After a refusal the card is left alone, each time for longer, and in the end for good; if the bank wants to
authenticate the customer, they get a page for it. Safe to run twice at once. Not for top-ups that people make
(checkout).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from uuid import UUID

from django.db import transaction
from django.db.models import Exists, F, OuterRef, Q, QuerySet, Sum
from django.utils import timezone

from billing.errors import CapBelowPrice, PaymentInFlight, PaymentsRefused, PaymentsUnavailable, UnknownCurrency
from billing.models import AutomaticTopUp, Payer, TopUp, Wallet
from billing.payments import cards, checkout
from billing.payments.cards import Answer
from billing.payments.stripe import Stripe
from billing.prices import packs

DAY = timedelta(hours=24)
# How long to wait after each refusal; after one more the card is not tried again.
PAUSES = (timedelta(hours=1), timedelta(hours=6), timedelta(hours=24))
# Stripe's decline codes of cards that will never pay again.
FINAL = {
    "card_not_supported", "fraudulent", "invalid_account", "lost_card", "pickup_card", "restricted_card",
    "revocation_of_all_authorizations", "revocation_of_authorization", "stolen_card", "stop_payment_order",
}  # fmt: skip
PENDING = (TopUp.Status.OPEN, TopUp.Status.PROCESSING)
On, Reason = AutomaticTopUp.Status.ON, AutomaticTopUp.Reason

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Terms:
    """What a customer orders: a pack by name, milli-Tokens, and money in the currency's smallest unit."""

    pack: str
    currency: str
    threshold: int
    daily_cap_minor: int


def order(stripe: Stripe, owner: UUID, terms: Terms, pages: checkout.Order, new_card: bool = False) -> AutomaticTopUp:
    """Set up automatic top-ups, or replace them; without a saved card, or for a new one, with the page to save it.

    `pages` says where those pages lead back to and who gets receipts. Raises UnknownPack, UnknownCurrency,
    CapBelowPrice, PaymentsUnavailable or PaymentsRefused.
    """
    pack = packs.find(terms.pack)
    if terms.currency not in pack.prices:
        raise UnknownCurrency(terms.currency, sorted(pack.prices))
    if terms.daily_cap_minor < pack.prices[terms.currency]:
        raise CapBelowPrice(pack.prices[terms.currency])
    payer = checkout.payer_for(stripe, owner, pages.email)
    url = ""
    if new_card or not payer.card_id:
        url = cards.save_page(stripe, payer, terms.currency, pages.success_url, pages.cancel_url)
    values = {
        "pack": pack,
        "currency": terms.currency,
        "threshold": terms.threshold,
        "daily_cap_minor": terms.daily_cap_minor,
        "status": AutomaticTopUp.Status.WAITING if url else On,
        "reason": "",
        "order": asdict(replace(pages, save_card=True)),
        "card_url": url,
        "failures": 0,
        "retry_at": None,
    }
    made, _ = AutomaticTopUp.objects.update_or_create(owner=owner, defaults=values)
    return made


def cancel(stripe: Stripe, owner: UUID) -> None:
    """Stop automatic top-ups and remove the saved card.

    Raises PaymentsUnavailable or PaymentsRefused; call it again then.
    """
    with transaction.atomic():
        _pending(owner=owner, status=TopUp.Status.OPEN, session_id="").update(status=TopUp.Status.EXPIRED)
        AutomaticTopUp.objects.filter(owner=owner).delete()
    cards.forget(stripe, owner)


def run(stripe: Stripe, new_id: Callable[[], UUID], allowed: Callable[[Collection[UUID]], Collection[UUID]]) -> None:
    """Begin the top-ups that are due and continue unfinished ones, for owners that are `allowed`; log what fails."""
    for owner in allowed(due()):
        begin(owner, new_id())
    begun = list(_pending(status=TopUp.Status.OPEN, session_id="", expires_at__gt=timezone.now()))
    owners = allowed({top_up.owner for top_up in begun})
    for top_up in begun:
        try:
            if top_up.owner in owners:
                advance(stripe, top_up)
        except PaymentInFlight:
            continue
        except PaymentsUnavailable as error:
            logger.warning("%s: %s", top_up, error)
            if not error.kept:
                return  # the others would not reach Stripe either
        except Exception:
            logger.exception("%s", top_up)


def due(limit: int = 500) -> list[UUID]:
    """Return the owners with too few Tokens; `begin` checks again."""
    low = Wallet.objects.filter(
        owner=OuterRef("owner"), kind=Wallet.Kind.CUSTOMER, frozen=False, balance__lt=F("held") + OuterRef("threshold")
    )
    pending = _pending(owner=OuterRef("owner"))
    waits = Q(retry_at__gt=timezone.now())
    orders = AutomaticTopUp.objects.filter(Exists(low), ~Exists(pending), ~waits, status=On)
    return list(orders.order_by("owner").values_list("owner", flat=True)[:limit])


@transaction.atomic
def begin(owner: UUID, top_up_id: UUID) -> TopUp | None:
    """Write down a top-up that is due, for `advance` to pay; return None if it is not due, or no longer."""
    rows = AutomaticTopUp.objects.select_for_update(of=("self",)).select_related("pack")
    standing = rows.filter(owner=owner, status=On).first()
    now = timezone.now()
    if standing is None or (standing.retry_at and standing.retry_at > now):
        return None
    payer = Payer.objects.filter(owner=owner).exclude(card_id="").first()
    if payer is None or cards.has_expired(payer, now.date()):
        _switch_off(owner, Reason.CARD_EXPIRED if payer else Reason.CARD_GONE)
        return None
    if not standing.pack.active:
        _switch_off(owner, Reason.PACK_CHANGED)
        return None
    price = standing.pack.prices[standing.currency]
    # One statement: a payment that arrives meanwhile is seen as pending or in the balance, never as neither.
    low = Wallet.objects.filter(
        ~Exists(_pending(owner=owner)), owner=owner, kind=Wallet.Kind.CUSTOMER, frozen=False,
        balance__lt=F("held") + standing.threshold,
    )  # fmt: skip
    if not low.exists() or _spent(standing) + price > standing.daily_cap_minor:
        return None
    return TopUp.objects.create(
        id=top_up_id, owner=owner, pack=standing.pack, currency=standing.currency, price_minor=price, automatic=True,
        order=standing.order, created_at=now, expires_at=now + checkout.OPEN_FOR,
    )  # fmt: skip


def advance(stripe: Stripe, top_up: TopUp) -> None:
    """Ask Stripe for the payment, or what became of it.

    Raises PaymentsUnavailable or PaymentsRefused; call it again then.
    """
    standing = AutomaticTopUp.objects.filter(owner=top_up.owner, status=On)
    frozen = Wallet.objects.filter(owner=top_up.owner, kind=Wallet.Kind.CUSTOMER, frozen=True)
    payer = Payer.objects.filter(owner=top_up.owner).exclude(card_id="").first()
    if payer is None or frozen.exists() or not standing.exists():
        _pending(id=top_up.id, status=TopUp.Status.OPEN, session_id="").update(status=TopUp.Status.EXPIRED)
        return
    try:
        outcome = cards.charge(stripe, top_up, payer)
    except PaymentsRefused:
        if not cards.is_gone(stripe, payer):
            raise
        if owner := cards.lose(card_id=payer.card_id):
            card_gone(owner)
        failed(top_up, Reason.CARD_GONE)
        return
    if outcome.answer is Answer.PAID:
        _pending(id=top_up.id).update(status=TopUp.Status.PROCESSING)
    elif outcome.answer is Answer.DECLINED:
        failed(top_up, outcome.code)
    else:
        checkout.open_page(stripe, top_up)


@transaction.atomic
def failed(top_up: TopUp, code: str, status: TopUp.Status = TopUp.Status.FAILED) -> None:
    """Record that a top-up was not paid: the next one waits, or none follows. Takes effect once per top-up."""
    if not _pending(id=top_up.id).update(status=status, failure=code):
        return
    standing = AutomaticTopUp.objects.select_for_update().filter(owner=top_up.owner, status=On).first()
    if standing is None:
        return
    if code == "expired_card":
        _switch_off(top_up.owner, Reason.CARD_EXPIRED)
    elif code in FINAL or standing.failures >= len(PAUSES):
        _switch_off(top_up.owner, Reason.CARD_DECLINED)
    else:
        standing.retry_at = timezone.now() + PAUSES[standing.failures]
        standing.failures += 1
        standing.save(update_fields=["retry_at", "failures"])


def paid(owner: UUID) -> None:
    """Reset the count of refusals, since the card works."""
    AutomaticTopUp.objects.filter(owner=owner, failures__gt=0).update(failures=0, retry_at=None)


def card_saved(owner: UUID) -> None:
    """Switch on top-ups that waited for a card."""
    waiting = AutomaticTopUp.objects.filter(owner=owner, status=AutomaticTopUp.Status.WAITING)
    waiting.update(status=On, card_url="")


def card_gone(owner: UUID) -> None:
    _switch_off(owner, Reason.CARD_GONE)


def _switch_off(owner: UUID, reason: AutomaticTopUp.Reason) -> None:
    standing = AutomaticTopUp.objects.filter(owner=owner, status=On)
    standing.update(status=AutomaticTopUp.Status.OFF, reason=reason, retry_at=None)


def _spent(standing: AutomaticTopUp) -> int:
    """Return how much of the daily cap was used in the last 24 hours."""
    lately = TopUp.objects.filter(
        owner=standing.owner, automatic=True, currency=standing.currency, created_at__gt=timezone.now() - DAY
    )
    lately = lately.exclude(status__in=[TopUp.Status.FAILED, TopUp.Status.EXPIRED])
    spent: int = lately.aggregate(spent=Sum("price_minor", default=0))["spent"]
    return spent


def _pending(**which: object) -> QuerySet[TopUp]:
    """Return automatic top-ups that may still be paid."""
    return TopUp.objects.filter(**{"automatic": True, "status__in": PENDING, **which})
