"""E-mails of what people must know: in the account's language, plain, and ended kind by kind with one click."""

from __future__ import annotations

import logging
from smtplib import SMTPException
from typing import Any
from urllib.parse import quote
from uuid import UUID

from django.conf import settings
from django.core import signing
from django.core.mail import EmailMultiAlternatives
from django.db import transaction
from django.template.loader import render_to_string

from marketplace.accounts.models import Account
from marketplace.webhooks.deliveries import Answer
from marketplace.webhooks.endpoints import preferences
from marketplace.webhooks.models import MAILED, Delivery, EventType, Preferences

_SIGNER = signing.Signer(salt="marketplace.webhooks.mails")

logger = logging.getLogger(__name__)


def send(delivery: Delivery) -> Answer:
    """Send an e-mail once. Without a mail server it is printed, as Django's console backend does."""
    account = Account.objects.select_related("owner").get(id=delivery.account_id)
    message = written(account, preferences(account.id), delivery.type, delivery.data or {})
    try:
        message.send()
    except (OSError, SMTPException) as error:
        logger.warning("e-mail %s: %s", delivery.id, error)
        return Answer(error="the mail server did not take it")
    return Answer(status=250)


def written(account: Account, wanted: Preferences, kind: str, data: dict[str, Any]) -> EmailMultiAlternatives:
    """Write an e-mail: the first line of its template is the subject, and its HTML says the same."""
    link = address(account.id, kind) if settings.PUBLIC_URL else ""
    terms = {"account": account, "data": data, "kind": kind, "link": link, "site": settings.SELLER_NAME}
    whole = render_to_string(f"mail/{wanted.language}/{kind}.txt", terms)
    subject, _, text = whole.partition("\n")
    page = render_to_string("mail/layout.html", {"text": text.strip(), "language": wanted.language})
    headers = {"Auto-Submitted": "auto-generated"}
    if link:
        headers |= {"List-Unsubscribe": f"<{link}>", "List-Unsubscribe-Post": "List-Unsubscribe=One-Click"}
    message = EmailMultiAlternatives(subject, text.strip() + "\n", None, [account.owner.email], headers=headers)
    message.attach_alternative(page, "text/html")
    return message


def address(account_id: UUID, kind: str) -> str:
    """Return where e-mails of this kind are ended for an account, by whoever was sent the link."""
    return f"{settings.PUBLIC_URL.rstrip('/')}/unsubscribe/{quote(_SIGNER.sign(f'{account_id.hex}.{kind}'), safe='')}"


def read(token: str) -> tuple[UUID, EventType] | None:
    """Return whose e-mails, and of which kind, a link is for; None if it is not one of ours."""
    try:
        account, _, kind = _SIGNER.unsign(token).partition(".")
        found = UUID(account), EventType(kind)
    except (signing.BadSignature, ValueError):
        return None
    return found if Account.objects.filter(id=found[0]).exists() else None


@transaction.atomic
def mute(account_id: UUID, kind: EventType) -> None:
    """Send no more e-mails of this kind."""
    wanted = Preferences.objects.select_for_update().get(pk=preferences(account_id).pk)
    if kind in MAILED and kind not in wanted.muted:
        wanted.muted = [*wanted.muted, kind.value]
        wanted.save(update_fields=["muted"])
