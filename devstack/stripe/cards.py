"""Stripe's test cards: what each number does, and the tokens that stand for it. Other numbers are refused."""

import hashlib
from dataclasses import dataclass, field

import stripe

from devstack.stripe.errors import Document
from devstack.stripe.objects import nulls


@dataclass(frozen=True)
class Card:
    """A test card. `refusal`, a key of REFUSALS, applies to every charge; `attaches`: it can be saved all the same.

    `authentication` is "always", "unless_set_up" or "" for never. It `waits`: without the customer it pays only after a
    day, in which they can object.
    """

    number: str
    tokens: tuple[str, ...] = ()
    refusal: str = ""
    attaches: bool = False
    authentication: str = ""
    disputed: bool = False
    warned: bool = False
    settles_at_once: bool = False
    refunds_slowly: bool = False
    waits: bool = False
    brand: str = field(default="visa")


REFUSALS = {
    "generic_decline": ("card_declined", "generic_decline", "Your card was declined."),
    "insufficient_funds": ("card_declined", "insufficient_funds", "Your card has insufficient funds."),
    "lost_card": ("card_declined", "lost_card", "Your card was declined."),
    "stolen_card": ("card_declined", "stolen_card", "Your card was declined."),
    "fraudulent": ("card_declined", "fraudulent", "Your card was declined."),
    "expired_card": ("expired_card", None, "Your card has expired."),
    "incorrect_cvc": ("incorrect_cvc", None, "Your card's security code is incorrect."),
    "processing_error": (
        "processing_error",
        None,
        "An error occurred while processing your card. Try again in a little bit.",
    ),
    "authentication_required": (
        "authentication_required",
        "authentication_required",
        "Your card was declined. This transaction requires authentication.",
    ),
    "test_mode_live_card": (
        "card_declined",
        "test_mode_live_card",
        "Your card was declined. Your request was in test mode, but used a non test card. "
        "For a list of valid test cards, visit: https://stripe.com/docs/testing.",
    ),
}
CARDS = (
    Card("4242424242424242", ("visa",)),
    Card("5555555555554444", ("mastercard",), brand="mastercard"),
    Card("378282246310005", ("amex",), brand="amex"),
    Card("4000000000000077", ("bypassPending",), settles_at_once=True),
    Card("4000000000000002", ("chargeDeclined", "visa_chargeDeclined"), "generic_decline"),
    Card(
        "4000000000009995",
        ("chargeDeclinedInsufficientFunds", "visa_chargeDeclinedInsufficientFunds"),
        "insufficient_funds",
    ),
    Card("4000000000009987", ("visa_chargeDeclinedLostCard",), "lost_card"),
    Card("4000000000009979", ("visa_chargeDeclinedStolenCard",), "stolen_card"),
    Card("4000000000000069", ("chargeDeclinedExpiredCard",), "expired_card"),
    Card("4000000000000127", ("chargeDeclinedIncorrectCvc",), "incorrect_cvc"),
    Card("4000000000000119", ("chargeDeclinedProcessingError",), "processing_error"),
    Card("4100000000000019", ("radarBlock",), "fraudulent"),
    Card("4000000000000341", ("chargeCustomerFail",), "generic_decline", attaches=True),
    Card("4000002500003155", ("authenticationRequiredOnSetup",), authentication="unless_set_up"),
    Card("4000002760003184", ("authenticationRequired",), authentication="always"),
    Card(
        "4000008260003178",
        ("authenticationRequiredChargeDeclinedInsufficientFunds",),
        "insufficient_funds",
        attaches=True,
        authentication="always",
    ),
    Card("4000003560000123", waits=True),
    Card("4000000000007726", ("pendingRefund",), refunds_slowly=True),
    Card("4000000000000259", ("createDispute",), disputed=True),
    Card("4000000000005423", ("createIssuerFraudRecord",), warned=True),
)
BY_NUMBER = {card.number: card for card in CARDS}
BY_TOKEN = {f"{prefix}_{token}": card for card in CARDS for token in card.tokens for prefix in ("pm_card", "tok")}


def details(card: Card, month: int, year: int) -> Document:
    """Return the `card` part of a PaymentMethod."""
    own = {
        "brand": card.brand,
        "checks": {"address_line1_check": None, "address_postal_code_check": None, "cvc_check": "pass"},
        "country": "US",
        "display_brand": card.brand,
        "exp_month": month,
        "exp_year": year,
        "fingerprint": hashlib.sha256(card.number.encode()).hexdigest()[:16],
        "funding": "credit",
        "last4": card.number[-4:],
        "networks": {"available": [card.brand], "preferred": None},
        "three_d_secure_usage": {"supported": True},
    }
    return nulls(stripe.PaymentMethod.Card) | own
