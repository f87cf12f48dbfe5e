"""Automatic top-ups: a pack is bought with the saved card whenever too few Tokens are left. Amounts as in the tables.

The top-up's row comes first, in a transaction of its own, and only if none is pending and the cap allows it. Then
Stripe is asked, with the same keys until it has answered (cards). Tokens are credited by Stripe's event, as for every
top-up. After a refusal the card is left alone, each time for longer, and in the end for good; if the bank wants to
authenticate the customer, they get a page for it. What was begun and is not to be paid any more ends by what Stripe
answers: until then it may have been paid, and counts. Safe to run twice at once. Not for top-ups that people make
(checkout).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from uuid import UUID

from django.db import transaction
from django.db.models import Exists, F, OuterRef, Q, QuerySet, Sum
from django.db.models.functions import Now

from billing import clock, notices
from billing.amounts import format_money
from billing.errors import CapBelowPrice, PaymentInFlight, PaymentsRefused, PaymentsUnavailable, UnknownCurrency
from billing.models import AutomaticTopUp, Notice, Payer, TopUp, Wallet
from billing.payments import cards, checkout, payers
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

    `pages` says where those pages lead back to and who gets receipts. What was begun on other terms is withdrawn.
    Raises UnknownPack, UnknownCurrency, CapBelowPrice, PaymentsUnavailable or PaymentsRefused; call it again then.
    """
    pack = packs.find(terms.pack)
    if terms.currency not in pack.prices:
        raise UnknownCurrency(terms.currency, sorted(pack.prices))
    if terms.daily_cap_minor < pack.prices[terms.currency]:
        raise CapBelowPrice(pack.prices[terms.currency])
    url = ""
    if new_card or not payers.ensure(stripe, owner, pages.email).card_id:
        places = pages.success_url, pages.cancel_url
        url = payers.ask(
            stripe, owner, pages.email, lambda payer: cards.save_page(stripe, payer, terms.currency, *places)
        )
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
        "capped_since": None,
    }
    made, _ = AutomaticTopUp.objects.update_or_create(owner=owner, defaults=values)
    for top_up in _pending(owner=owner, status=TopUp.Status.OPEN):
        if not _agrees(made, top_up):
            withdraw(stripe, top_up)
    return made


def cancel(stripe: Stripe, owner: UUID) -> None:
    """Stop automatic top-ups, withdraw one that was begun, and remove the saved card.

    Raises PaymentsUnavailable or PaymentsRefused; call it again then.
    """
    AutomaticTopUp.objects.filter(owner=owner).delete()
    for top_up in _pending(owner=owner, status=TopUp.Status.OPEN):
        withdraw(stripe, top_up)
    cards.forget(stripe, owner)


def run(stripe: Stripe, new_id: Callable[[], UUID], allowed: Callable[[Collection[UUID]], Collection[UUID]]) -> None:
    """Begin the top-ups that are due and continue unfinished ones, for owners that are `allowed`; log what fails."""
    follow_cards(stripe)
    for owner in allowed(due()):
        try:
            begin(owner, new_id())
        except Exception:
            logger.exception("automatic top-up of %s", owner)
    stopped = ~Exists(AutomaticTopUp.objects.filter(owner=OuterRef("owner"), status=On))
    # in no order: where Stripe does not answer, the rest waits, but not for the same one each time
    begun = list(_pending(status=TopUp.Status.OPEN).filter(Q(session_id="") | stopped).order_by("?"))
    owners = allowed({top_up.owner for top_up in begun})
    for top_up in begun:
        try:
            advance(stripe, top_up, top_up.owner in owners)
        except PaymentInFlight:
            continue
        except PaymentsUnavailable as error:
            logger.warning("%s: %s", top_up, error)
            if not error.kept:
                return  # the others would not reach Stripe either
        except Exception:
            logger.exception("%s", top_up)


def due() -> list[UUID]:
    """Return the owners with too few Tokens; `begin` checks again."""
    pending = _pending(owner=OuterRef("owner"))
    waits = Q(retry_at__gt=clock.now())
    low = _low(OuterRef("owner"), OuterRef("threshold"))
    orders = AutomaticTopUp.objects.filter(Exists(low), ~Exists(pending), ~waits, status=On)
    return list(orders.order_by("owner").values_list("owner", flat=True))


@transaction.atomic
def begin(owner: UUID, top_up_id: UUID) -> TopUp | None:
    """Write down a top-up that is due, for `advance` to pay; return None if it is not due, or no longer."""
    rows = AutomaticTopUp.objects.select_for_update(of=("self",)).select_related("pack")
    standing = rows.filter(owner=owner, status=On).first()
    now = clock.now()
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
    low = _low(owner, standing.threshold).filter(~Exists(_pending(owner=owner)))
    if not low.exists():
        return None
    if spent(standing) + price > standing.daily_cap_minor:
        _capped(standing, now)
        return None
    AutomaticTopUp.objects.filter(owner=owner).update(capped_since=None)
    return TopUp.objects.create(
        id=top_up_id, owner=owner, pack=standing.pack, currency=standing.currency, price_minor=price, automatic=True,
        order=standing.order, created_at=now, expires_at=now + checkout.OPEN_FOR,
    )  # fmt: skip


def _capped(standing: AutomaticTopUp, now: datetime) -> None:
    """Note that the cap stopped a top-up, and have the owner told once."""
    if standing.capped_since is None:
        AutomaticTopUp.objects.filter(owner=standing.owner).update(capped_since=now)
        price = standing.pack.prices[standing.currency]
        notices.write(
            standing.owner,
            Notice.Kind.CAP_REACHED,
            pack=standing.pack.name,
            price=format_money(price, standing.currency),
            daily_cap=format_money(standing.daily_cap_minor, standing.currency),
            currency=standing.currency,
        )


def advance(stripe: Stripe, top_up: TopUp, allowed: bool = True) -> None:
    """Ask Stripe for the payment, or what became of it; withdraw one that is not to be paid any more.

    Raises PaymentsUnavailable or PaymentsRefused; call it again then.
    """
    standing = AutomaticTopUp.objects.filter(owner=top_up.owner, status=On).first()
    frozen = Wallet.objects.filter(owner=top_up.owner, kind=Wallet.Kind.CUSTOMER, frozen=True)
    payer = Payer.objects.filter(owner=top_up.owner).exclude(card_id="").first()
    is_late = top_up.expires_at <= clock.now()
    agreed = standing is not None and _agrees(standing, top_up)
    if payer is None or not allowed or is_late or frozen.exists() or not agreed:
        withdraw(stripe, top_up)
        return
    try:
        outcome = cards.charge(stripe, top_up, payer)
    except PaymentsRefused:
        if not follow_card(stripe, payer):
            raise
        withdraw(stripe, top_up)
        return
    if outcome.answer is Answer.PAID:
        _pending(id=top_up.id).update(status=TopUp.Status.PROCESSING)
    elif outcome.answer is Answer.DECLINED:
        failed(top_up, outcome.code)
    elif outcome.answer is Answer.AUTHENTICATION_REQUIRED:
        checkout.open_page(stripe, top_up)
    else:
        _end(top_up, TopUp.Status.EXPIRED)


def _agrees(standing: AutomaticTopUp, top_up: TopUp) -> bool:
    """Return whether a top-up that was begun is still what its owner wants, who may have changed the order since."""
    same = (top_up.pack_id, top_up.currency) == (standing.pack_id, standing.currency)
    return same and spent(standing) <= standing.daily_cap_minor


def withdraw(stripe: Stripe, top_up: TopUp) -> None:
    """End a top-up, unless Stripe says that it was paid, or is being paid.

    Raises PaymentsUnavailable or PaymentsRefused.
    """
    is_paid = cards.withdraw(stripe, top_up) is Answer.PAID
    _end(top_up, TopUp.Status.PROCESSING if is_paid else TopUp.Status.EXPIRED)


def _end(top_up: TopUp, status: TopUp.Status) -> None:
    """Write down what became of a top-up, unless another payment of it was begun meanwhile."""
    same = {"payment_intent": top_up.payment_intent, "session_id": top_up.session_id}
    _pending(id=top_up.id, status=TopUp.Status.OPEN, **same).update(status=status)


@transaction.atomic
def failed(top_up: TopUp, code: str, status: TopUp.Status = TopUp.Status.FAILED) -> None:
    """Record that a top-up was not paid: the next one waits, or none follows. Takes effect once per top-up."""
    if not _pending(id=top_up.id).update(status=status, failure=code):
        return
    notices.about(top_up, Notice.Kind.PAYMENT_FAILED, failure=code)
    standing = AutomaticTopUp.objects.select_for_update().filter(owner=top_up.owner, status=On).first()
    if standing is None:
        return
    if code == "expired_card":
        _switch_off(top_up.owner, Reason.CARD_EXPIRED)
    elif code in FINAL or standing.failures >= len(PAUSES):
        _switch_off(top_up.owner, Reason.CARD_DECLINED)
    else:
        standing.retry_at = clock.now() + PAUSES[standing.failures]
        standing.failures += 1
        standing.save(update_fields=["retry_at", "failures"])


def paid(owner: UUID) -> None:
    """Reset the count of refusals, since the card works."""
    AutomaticTopUp.objects.filter(owner=owner, failures__gt=0).update(failures=0, retry_at=None)


def follow_cards(stripe: Stripe, limit: int = 100) -> None:
    """Find out which cards are saved now, where Stripe's events say that this has changed; log what fails.

    In no order, so that nobody waits for the same ones that fail each time.
    """
    for payer in Payer.objects.exclude(card_news="").order_by("?")[:limit]:
        try:
            follow_card(stripe, payer)
        except PaymentsUnavailable as error:
            logger.warning("%s: %s", payer, error)
            if not error.kept:
                return  # the next run asks again
        except Exception:
            logger.exception("%s", payer)


def follow_card(stripe: Stripe, payer: Payer) -> bool:
    """Find out which card is saved now; return whether it is another one, or none any more.

    Raises PaymentsUnavailable or PaymentsRefused.
    """
    newest = cards.newest(stripe, payer)
    before = payer.card_id
    with transaction.atomic():
        if not cards.keep(payer, newest):
            return False
        payer.refresh_from_db()
        if payer.card_id and payer.card_id != before:
            waiting = AutomaticTopUp.objects.filter(owner=payer.owner, status=AutomaticTopUp.Status.WAITING)
            waiting.update(status=On, card_url="")
        elif before and not payer.card_id:
            card_gone(payer.owner)
    return payer.card_id != before


def card_gone(owner: UUID) -> None:
    _switch_off(owner, Reason.CARD_GONE)


def spent(standing: AutomaticTopUp) -> int:
    """Return how much of the daily cap is used: paid in the last 24 hours, or possibly still to be paid."""
    total: int = _counted(standing).aggregate(total=Sum("price_minor", default=0))["total"]
    return total


def capped_until(standing: AutomaticTopUp) -> datetime | None:
    """Return when the daily cap allows the next top-up, if nothing but the cap stops one that is due."""
    waits = standing.retry_at is not None and standing.retry_at > clock.now()
    left = standing.daily_cap_minor - standing.pack.prices[standing.currency] - spent(standing)
    if standing.status != On or waits or left >= 0 or _pending(owner=standing.owner).exists():
        return None
    if not _low(standing.owner, standing.threshold).exists():
        return None
    for paid_at, price_minor in _counted(standing).order_by("paid_at").values_list("paid_at", "price_minor"):
        left += price_minor
        if left >= 0:
            return paid_at + DAY if paid_at else None
    return None


@transaction.atomic
def _switch_off(owner: UUID, reason: AutomaticTopUp.Reason) -> None:
    standing = AutomaticTopUp.objects.filter(owner=owner, status=On)
    if standing.update(status=AutomaticTopUp.Status.OFF, reason=reason, retry_at=None):
        notices.write(owner, Notice.Kind.SWITCHED_OFF, reason=reason)


def _counted(standing: AutomaticTopUp) -> QuerySet[TopUp]:
    """Return the top-ups that the daily cap counts: by when they were paid, or may be, not by when they were begun."""
    lately = Q(status__in=PENDING) | Q(paid_at__gt=Now() - DAY)
    return TopUp.objects.filter(lately, owner=standing.owner, automatic=True, currency=standing.currency)


def _low(owner: UUID | OuterRef, threshold: int | OuterRef) -> QuerySet[Wallet]:
    """Return the owner's wallet if fewer Tokens are available and it may buy more."""
    mine = Wallet.objects.filter(owner=owner, kind=Wallet.Kind.CUSTOMER, frozen=False)
    return mine.filter(balance__lt=F("held") + threshold)


def _pending(**which: object) -> QuerySet[TopUp]:
    """Return automatic top-ups that may still be paid."""
    return TopUp.objects.filter(**{"automatic": True, "status__in": PENDING, **which})
