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

import stripe
from django.conf import settings

from billing.errors import BadSignature, PaymentInFlight, PaymentsRefused, PaymentsUnavailable
from billing.models import TopUp

TIMEOUT_SECONDS = 8.0
GONE_BACK = {"charge_already_refunded", "charge_disputed"}

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
    def attempt(self, top_up: TopUp) -> Iterator[tuple[stripe.StripeClient, str]]:
        """Yield the client and this top-up's idempotency key, which changes once Stripe has stored an error for it."""
        number = top_up.attempt
        try:
            with self.asking() as client:
                yield client, f"{top_up.id}:{number}" if number else str(top_up.id)
        except PaymentsUnavailable as error:
            if error.kept:
                TopUp.objects.filter(id=top_up.id, attempt=number).update(attempt=number + 1)
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
        with self.asking() as client:
            metadata = client.v1.payment_intents.retrieve(payment_intent).metadata
        try:
            return TopUp.objects.filter(id=metadata["top_up"]).exists() if metadata else False
        except (KeyError, ValueError):
            return False

    def refund_rest(self, payment_intent: str, key: str, reason: Literal["duplicate", "fraudulent"]) -> bool:
        """Refund what is left of a payment; return False if nothing is.

        Raises PaymentsUnavailable or PaymentsRefused.
        """
        with self.asking() as client:
            try:
                client.v1.refunds.create({"payment_intent": payment_intent, "reason": reason}, {"idempotency_key": key})
            except stripe.InvalidRequestError as error:
                if error.code in GONE_BACK:
                    return False
                raise
        return True

    def refund_amount(self, payment_intent: str, amount_minor: int, reversal: str) -> str:
        """Refund this much, once per `reversal` however often and late it is called; return Stripe's refund id.

        Raises PaymentsUnavailable or PaymentsRefused.
        """
        with self.asking() as client:
            # Stripe forgets idempotency keys after a day, but not its refunds.
            made = client.v1.refunds.list({"payment_intent": payment_intent, "limit": 100})
            for refund in made.auto_paging_iter():
                if (refund.to_dict(for_json=True).get("metadata") or {}).get("reversal") == reversal:
                    return refund.id
            order: Any = {
                "payment_intent": payment_intent,
                "amount": amount_minor,
                "reason": "requested_by_customer",
                "metadata": {"reversal": reversal},
            }
            return client.v1.refunds.create(order, {"idempotency_key": f"reversal:{reversal}"}).id


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
