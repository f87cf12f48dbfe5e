"""Stripe as Kiln uses it: the client, verified webhooks, the list of events, and refunds.

Only this module and `cards`, which reads a card's answers, import Stripe's library.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import lru_cache
from typing import Any, Literal
from uuid import UUID

import stripe
from django.conf import settings

from billing.errors import BadSignature, PaymentInFlight, PaymentsRefused, PaymentsUnavailable
from billing.models import Payee, Payout, RefundOrder, Reversal, TopUp

TIMEOUT_SECONDS = 8.0
GONE_BACK = {"charge_already_refunded", "charge_disputed"}
# The code of Stripe's errors for an id that it does not have, or no longer.
MISSING = "resource_missing"

logger = logging.getLogger(__name__)


def from_settings() -> Stripe:
    """Return the Stripe that the settings describe, for a web request, a task or a command."""
    key = settings.STRIPE_SECRET_KEY
    return Stripe(_client(key, settings.STRIPE_API_BASE) if key else None)


class Stripe:
    """Stripe under one secret key, passed to whatever needs it. Stripe's errors are raised as ours."""

    def __init__(self, client: stripe.StripeClient | None) -> None:
        """Without a client, because no key is set, every call raises PaymentsUnavailable."""
        self._client = client

    @contextmanager
    def attempt(self, row: TopUp | Reversal | Payee | Payout) -> Iterator[tuple[stripe.StripeClient, str]]:
        """Yield the client and this row's idempotency key, which changes once Stripe has stored an error for it."""
        number = row.attempt
        try:
            with self.asking() as client:
                yield client, f"{row.pk}:{number}" if number else str(row.pk)
        except (PaymentsUnavailable, PaymentsRefused) as error:
            if error.kept:
                type(row)._default_manager.filter(pk=row.pk, attempt=number).update(attempt=number + 1)
                row.attempt = number + 1
            raise

    @contextmanager
    def asking(self) -> Iterator[stripe.StripeClient]:
        """Yield the client, and raise Stripe's errors as ours."""
        if self._client is None:
            raise PaymentsUnavailable("STRIPE_SECRET_KEY is not set")
        try:
            yield self._client
        except stripe.StripeError as error:
            status = error.http_status or 0
            if status == 409:
                raise PaymentInFlight(str(error)) from error
            if isinstance(error, stripe.AuthenticationError | stripe.PermissionError):
                logger.error("Stripe does not take STRIPE_SECRET_KEY: %s", error)  # for the operator to fix
                raise PaymentsUnavailable(str(error)) from error
            if isinstance(error, stripe.IdempotencyError):  # what was asked for under this key has changed since
                raise PaymentsUnavailable(str(error), kept=True) from error
            if isinstance(error, stripe.APIConnectionError | stripe.APIError | stripe.RateLimitError):
                raise PaymentsUnavailable(str(error), kept=status >= 500) from error
            raise PaymentsRefused(str(error), error.code or "", error.request_id or "") from error

    def events(self, types: list[str], since: datetime) -> Iterator[dict[str, Any]]:
        """Yield Stripe's events of these types since then, newest first.

        Raises PaymentsUnavailable or PaymentsRefused.
        """
        with self.asking() as client:
            found = client.v1.events.list({"types": types, "created": {"gte": int(since.timestamp())}, "limit": 100})
            for event in found.auto_paging_iter():
                yield event.to_dict(for_json=True)

    def is_ours(self, payment_intent: str) -> bool:
        """Return whether a payment was for a top-up, even if we have not heard yet that it was paid.

        Raises PaymentsUnavailable or PaymentsRefused.
        """
        if TopUp.objects.filter(payment_intent=payment_intent).exists():
            return True
        try:
            with self.asking() as client:
                metadata = client.v1.payment_intents.retrieve(payment_intent).metadata
        except PaymentsRefused as error:
            if error.code != MISSING:
                raise
            return False
        try:
            return TopUp.objects.filter(id=UUID(metadata["top_up"])).exists() if metadata else False
        except (KeyError, ValueError):
            return False

    def refund_rest(self, order: RefundOrder, reason: Literal["duplicate", "fraudulent"]) -> bool:
        """Refund what is left of a payment; return False if nothing is.

        Raises PaymentsUnavailable or PaymentsRefused.
        """
        with self.asking() as client:
            try:
                client.v1.refunds.create(
                    {"payment_intent": order.payment_intent, "reason": reason, "metadata": {"order": order.id}},
                    {"idempotency_key": f"{order.id}:{order.tries}"},
                )
            except stripe.InvalidRequestError as error:
                if error.code in GONE_BACK:
                    return False
                raise
        return True

    def refund_amount(self, reversal: Reversal) -> str:
        """Refund a reversal's money, once however often and late it is called; return Stripe's refund id.

        Raises PaymentsUnavailable or PaymentsRefused.
        """
        with self.attempt(reversal) as (client, key):
            # Stripe forgets idempotency keys after a day, but not its refunds.
            made = client.v1.refunds.list({"payment_intent": reversal.payment_intent, "limit": 100})
            for refund in made.auto_paging_iter():
                if (refund.to_dict(for_json=True).get("metadata") or {}).get("reversal") == reversal.id:
                    return refund.id
            order: Any = {
                "payment_intent": reversal.payment_intent,
                "amount": reversal.amount_minor,
                "reason": "requested_by_customer",
                "metadata": {"reversal": reversal.id},
            }
            return client.v1.refunds.create(order, {"idempotency_key": f"reversal:{key}"}).id

    def transfer(self, payout: Payout) -> str:
        """Transfer a payout's money, once however often and late it is called; return Stripe's id of the transfer.

        Raises PaymentsUnavailable or PaymentsRefused.
        """
        with self.attempt(payout) as (client, key):
            # Stripe forgets idempotency keys after a day, but not its transfers.
            made = client.v1.transfers.list({"transfer_group": str(payout.id), "limit": 1})
            if made.data:
                return made.data[0].id
            order: Any = {
                "amount": payout.money_minor,
                "currency": payout.purse.currency,
                "destination": payout.account_id,
                "transfer_group": str(payout.id),
                "metadata": {"payout": str(payout.id)},
            }
            return client.v1.transfers.create(order, {"idempotency_key": f"payout:{key}"}).id


def read_event(body: bytes, signature: str) -> dict[str, Any]:
    """Return a webhook's event.

    Raises BadSignature unless a secret of ours signed these bytes in the last 5 minutes.
    """
    for secret in settings.STRIPE_WEBHOOK_SECRETS:
        try:
            stripe.WebhookSignature.verify_header(body, signature, secret, stripe.Webhook.DEFAULT_TOLERANCE)
            event: dict[str, Any] = json.loads(body)
            return event
        except (stripe.SignatureVerificationError, ValueError):
            continue
    raise BadSignature("none of our secrets signed this recently")


def metadata(top_up: TopUp) -> dict[str, str]:
    """Return the metadata by which Stripe's payments are matched to this top-up."""
    return {"top_up": str(top_up.id), "account": str(top_up.owner)}


@lru_cache(maxsize=4)
def _client(key: str, base: str) -> stripe.StripeClient:
    return stripe.StripeClient(
        key,
        base_addresses={"api": base} if base else {},
        http_client=stripe.RequestsClient(timeout=TIMEOUT_SECONDS),
        max_network_retries=1,
    )
