"""Payees: makers whom Stripe may pay. Stripe asks them itself who they are; we keep only whether it pays them.

The row is first, and its owner Stripe's idempotency key, so that a lost answer is asked for again. What an event says
of a payee is only that there is news: Stripe is asked, at once and then by the periodic task. Not for the money
(payouts).
"""

from __future__ import annotations

import logging
from typing import Any
from uuid import UUID

from django.db.models import F
from django.db.models.functions import Now

from billing.errors import CountryKept, CountryNotPaid, PaymentsRefused, PaymentsUnavailable
from billing.models import Payee
from billing.payments.stripe import MISSING, Stripe

# Between these Stripe moves money for a platform of any of them (docs.stripe.com/connect/cross-border-payouts).
COUNTRIES = frozenset({
    "at", "be", "bg", "ca", "ch", "cy", "cz", "de", "dk", "ee", "es", "fi", "fr", "gb", "gr", "hr", "hu", "ie", "is",
    "it", "li", "lt", "lu", "lv", "mt", "nl", "no", "pl", "pt", "ro", "se", "si", "sk", "us",
})  # fmt: skip

INCLUDED: Any = ["configuration.recipient", "requirements"]
MOST_MISSING = 50

logger = logging.getLogger(__name__)


def onboard(stripe: Stripe, owner: UUID, country: str, email: str, pages: tuple[str, str]) -> tuple[Payee, str]:
    """Return the payee, and the address of Stripe's page where they say who they are and where to pay.

    `pages` are where it leads if it has expired and when it is done. The country is kept while Stripe has an account
    for it. Raises CountryNotPaid, CountryKept, PaymentsUnavailable or PaymentsRefused.
    """
    if country not in COUNTRIES:
        raise CountryNotPaid(country)
    payee, _ = Payee.objects.get_or_create(owner=owner, defaults={"country": country, "email": email})
    try:
        return payee, _page(stripe, payee, country, email, pages)
    except PaymentsRefused:
        if not payee.account_id:
            raise
        ask(stripe, payee)
        if payee.account_id:
            raise
        return payee, _page(stripe, payee, country, email, pages)


def _page(stripe: Stripe, payee: Payee, country: str, email: str, pages: tuple[str, str]) -> str:
    """Return the address of Stripe's page, for an account that is made if there is none."""
    if not payee.account_id:
        _make(stripe, payee, country, email)
    if payee.country != country:
        raise CountryKept(payee.country)
    refresh_url, return_url = pages
    case = {"refresh_url": refresh_url, "return_url": return_url}
    order: Any = {
        "account": payee.account_id,
        "use_case": {"type": "account_onboarding", "account_onboarding": case},
    }
    with stripe.asking() as client:
        return client.v2.core.account_links.create(order).url


def _make(stripe: Stripe, payee: Payee, country: str, email: str) -> None:
    """Make a payee's account at Stripe; what was asked for under the key of an attempt is never changed."""
    mine = Payee.objects.filter(owner=payee.owner, account_id="")
    if payee.country != country:
        mine.update(country=country, email=email, attempt=F("attempt") + 1)
        payee.refresh_from_db()
    with stripe.attempt(payee) as (client, key):
        made = client.v2.core.accounts.create(_account(payee), {"idempotency_key": f"payee:{key}"})
    mine.update(account_id=made.id)
    payee.refresh_from_db()


def note(account: dict[str, Any]) -> str | None:
    """Note that there is news of a payee. For `events`."""
    found = Payee.objects.filter(account_id=account["id"])
    return f"payee {account['id']}: may have changed" if found.update(news=account["id"]) else None


def follow(stripe: Stripe) -> None:
    """Ask Stripe of every payee with news. Failures are logged, and tried again later."""
    for payee in Payee.objects.exclude(news=""):
        try:
            ask(stripe, payee)
        except (PaymentsUnavailable, PaymentsRefused) as error:
            logger.warning("%s: %s", payee, error)
        except Payee.DoesNotExist:  # its account was closed meanwhile
            continue


def ask(stripe: Stripe, payee: Payee) -> None:
    """Ask Stripe whether it pays this payee, and what it still wants; one whose account was closed may begin anew.

    Raises PaymentsUnavailable or PaymentsRefused.
    """
    if not payee.account_id:
        return
    if (found := _account_at_stripe(stripe, payee)) is None:
        closed = {"account_id": "", "status": Payee.Status.ONBOARDING, "news": "", "capability": "", "missing": []}
        mine = Payee.objects.filter(owner=payee.owner, account_id=payee.account_id)
        mine.update(**closed, attempt=F("attempt") + 1, asked_at=Now())
        payee.refresh_from_db()
        return
    transfers = found.configuration.recipient.capabilities.stripe_balance.stripe_transfers
    status = Payee.Status.ACTIVE if transfers.status == "active" else Payee.Status.INACTIVE
    if status == Payee.Status.INACTIVE and payee.status == Payee.Status.ONBOARDING:
        status = Payee.Status.ONBOARDING
    said = {"status": status, "capability": transfers.status, "missing": _missing(found, transfers), "asked_at": Now()}
    # What came meanwhile is asked for again.
    Payee.objects.filter(owner=payee.owner, news=payee.news).update(news="", **said)
    payee.refresh_from_db()


def _missing(account: Any, transfers: Any) -> list[str]:
    """Return why the capability is not active, and what the payee or Stripe has still to do, in Stripe's words."""
    why = [f"{each.code} ({each.resolution})" for each in transfers.status_details or ()]
    entries = account.requirements.entries if account.requirements else None
    wanted = [f"{each.description}, from the {each.awaiting_action_from}" for each in entries or ()]
    return [text[:200] for text in (*why, *wanted)[:MOST_MISSING]]


def _account_at_stripe(stripe: Stripe, payee: Payee) -> Any:
    """Return a payee's account; None if it was closed or is not there any more."""
    try:
        with stripe.asking() as client:
            found = client.v2.core.accounts.retrieve(payee.account_id, {"include": INCLUDED})
    except PaymentsRefused as error:
        if error.code != MISSING:
            raise
        return None
    return None if found.closed else found


def _account(payee: Payee) -> Any:
    return {
        "contact_email": payee.email,
        "dashboard": "express",
        "identity": {"country": payee.country},
        "configuration": {"recipient": {"capabilities": {"stripe_balance": {"stripe_transfers": {"requested": True}}}}},
        "defaults": {"responsibilities": {"fees_collector": "application", "losses_collector": "application"}},
        "metadata": {"account": str(payee.owner)},
    }
