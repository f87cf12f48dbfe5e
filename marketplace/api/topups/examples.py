"""Examples for the OpenAPI description: automatic top-ups, before and after a card is saved."""

from __future__ import annotations

from drf_spectacular.utils import OpenApiExample

AUTOMATIC = {"pack": "medium", "currency": "eur", "threshold": "500", "daily_cap": "60.00"}
STANDING = {
    "status": "on",
    "reason": None,
    "pack": {
        "name": "medium",
        "version": 1,
        "tokens": "40000",
        "bonus": "4000",
        "prices": {"eur": "20.00", "usd": "20.00"},
    },
    "price": "20.00",
    "currency": "eur",
    "threshold": "500",
    "daily_cap": "60.00",
    "card": {"brand": "visa", "last4": "4242", "exp_month": 12, "exp_year": 2034},
    "card_url": None,
    "spent": "20.00",
    "capped_until": None,
    "retry_at": None,
    "pending": None,
    "created_at": "2026-11-21T03:45:50.000Z",
}
UNSAVED = STANDING | {
    "status": "waiting_for_card",
    "card": None,
    "card_url": "https://checkout.stripe.com/c/pay/cs_…",
    "spent": "0.00",
}

automatic_seen = [OpenApiExample("on", STANDING, response_only=True, status_codes=["200"])]
automatic_ordered = [
    OpenApiExample("below 500 Tokens", AUTOMATIC, request_only=True),
    OpenApiExample("a card is to be saved", UNSAVED, response_only=True, status_codes=["200"]),
]
