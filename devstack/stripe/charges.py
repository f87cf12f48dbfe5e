"""Charges: created by PaymentIntents only, booked into the balance, changed by refunds and disputes."""

import stripe

from devstack.stripe import balance
from devstack.stripe.books import Books
from devstack.stripe.cards import REFUSALS, Card
from devstack.stripe.errors import Document
from devstack.stripe.objects import nulls

SENTENCE = {"succeeded": "Payment complete.", "pending": "Payment pending.", "failed": "The bank declined the payment."}


def create(books: Books, intent: Document, method: Document, status: str, refusal: str = "") -> Document:
    """Create an attempt to pay a PaymentIntent: succeeded, failed with a `refusal`, or pending.

    Books nothing and emits no event.
    """
    code, decline_code, message = REFUSALS[refusal] if refusal else (None, None, None)
    amount = intent["amount"]
    charge = books.create(
        "charge",
        amount=amount,
        amount_captured=amount if status != "failed" else 0,
        amount_refunded=0,
        billing_details=method["billing_details"],
        calculated_statement_descriptor="KILN",
        captured=status != "failed",
        currency=intent["currency"],
        customer=intent["customer"],
        description=intent["description"],
        disputed=False,
        failure_code=code,
        failure_message=message,
        fraud_details={},
        metadata=intent["metadata"],
        outcome=_outcome(status, decline_code or code),
        paid=status == "succeeded",
        payment_intent=intent["id"],
        payment_method=method["id"],
        payment_method_details=_details(method),
        receipt_email=intent["receipt_email"],
        refunded=False,
        status=status,
        transfer_group=intent["transfer_group"],
    )
    charge["receipt_url"] = f"{books.url}/receipts/{charge['id']}" if status == "succeeded" else None
    books.save(charge)
    return charge


def book(books: Books, charge: Document, card: Card | None) -> None:
    """Book a charge, less the fee, into the balance, which happens a little after it has succeeded."""
    wait = 0 if card and card.settles_at_once else balance.PAYOUT_SECONDS
    transaction = balance.record(
        books,
        "charge",
        charge["amount"],
        charge["currency"],
        charge["id"],
        fee=balance.fee_of(charge["amount"]),
        available_on=books.now + wait,
    )
    books.change(charge, "charge.updated", balance_transaction=transaction["id"])


def _outcome(status: str, reason: str | None) -> Document:
    own = {
        "network_status": "declined_by_network" if status == "failed" else "approved_by_network",
        "reason": reason,
        "risk_level": "normal",
        "risk_score": 20,
        "seller_message": SENTENCE[status],
        "type": "issuer_declined" if status == "failed" else "authorized",
    }
    return nulls(stripe.Charge.Outcome) | own


def _details(method: Document) -> Document:
    if method["type"] != "card":
        return {"type": method["type"], method["type"]: {"last4": "6789"}}
    card = nulls(stripe.Charge.PaymentMethodDetails.Card)
    card |= {name: value for name, value in method["card"].items() if name in card}
    return {"type": "card", "card": card | {"network": card["brand"]}}
