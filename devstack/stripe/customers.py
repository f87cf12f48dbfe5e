"""Customers and their saved cards."""

from typing import Any

import stripe

from devstack.stripe import cards
from devstack.stripe.books import Books, Call, listed, text
from devstack.stripe.cards import Card
from devstack.stripe.errors import Declined, Document, Invalid
from devstack.stripe.objects import nulls, random_text
from devstack.stripe.store import field

TEXTS = ("description", "email", "name", "phone", "business_name", "individual_name", "tax_exempt")


def create(call: Call) -> Document:
    """Handle `POST /v1/customers`."""
    customer = new(call.books, **_given(call, {}))
    if "payment_method" in call.params:
        attach(call.books, method_for(call.books, call.params.get("payment_method")), customer["id"])
    return customer


def new(books: Books, **fields: Any) -> Document:
    """Create a customer, with its event."""
    own = {
        "balance": 0,
        "delinquent": False,
        "invoice_prefix": random_text(8).upper(),
        "invoice_settings": nulls(stripe.Customer.InvoiceSettings),
        "next_invoice_sequence": 1,
        "preferred_locales": [],
        "tax_exempt": "none",
    }
    customer = books.create("customer", **own | fields)
    books.emit("customer.created", customer)
    return customer


def update(call: Call) -> Document:
    """Handle `POST /v1/customers/{id}`."""
    customer = call.books.get("customer", call.names["id"])
    call.books.change(customer, "customer.updated", **_given(call, customer))
    return customer


def delete(call: Call) -> Document:
    """Handle `DELETE /v1/customers/{id}`: the customer's cards are detached."""
    customer = call.books.get("customer", call.names["id"])
    for method in call.books.find("payment_method", customer=customer["id"]):
        _detach(call.books, method)
    call.books.emit("customer.deleted", customer)
    gone = {"id": customer["id"], "object": "customer", "deleted": True}
    call.books.save(gone)
    return gone


def new_method(books: Books, card: Card, month: int = 12, year: int = 2034, **fields: Any) -> Document:
    """Create a PaymentMethod of type card. Raises Invalid for an expired one."""
    if not 1 <= month <= 12:
        raise Invalid("Your card's expiration month is invalid.", code="invalid_expiry_month", param="exp_month")
    if not 2024 <= year <= 2074:
        raise Invalid("Your card's expiration year is invalid.", code="invalid_expiry_year", param="exp_year")
    fields = {"billing_details": nulls(stripe.PaymentMethod.BillingDetails)} | fields
    return books.create(
        "payment_method", type="card", card=cards.details(card, month, year), _number=card.number, **fields
    )


def method_for(books: Books, identifier: str) -> Document:
    """Return the PaymentMethod with this id, or create one for a test token such as `pm_card_visa`."""
    if card := cards.BY_TOKEN.get(identifier):
        return new_method(books, card)
    return books.get("payment_method", identifier, "payment_method")


def create_method(call: Call) -> Document:
    """Handle `POST /v1/payment_methods`, by token or by number."""
    call.params.require("type", "card")
    if call.params.get("type") != "card":
        raise Invalid("This double supports only payment methods of type card.", stored=False, param="type")
    given = call.params.part("card")
    token = given.get("token")
    card = cards.BY_TOKEN.get(token) if token else cards.BY_NUMBER.get(given.get("number", "").replace(" ", ""))
    if token and not card:
        raise Invalid(f"No such token: '{token}'", code="resource_missing", param="card[token]")
    if not card:
        code, decline, message = cards.REFUSALS["test_mode_live_card"]
        raise Declined(message, str(code), decline)
    given.get("cvc")
    fields = {"metadata": call.merged_metadata({})}
    if "billing_details" in call.params:
        fields["billing_details"] = _billing(call)
    return new_method(call.books, card, given.get("exp_month", 12), given.get("exp_year", 2034), **fields)


def attach_method(call: Call) -> Document:
    """Handle `POST /v1/payment_methods/{id}/attach`."""
    call.params.require("customer")
    customer = call.books.get("customer", call.params.get("customer"), "customer")
    return attach(call.books, method_for(call.books, call.names["id"]), customer["id"])


def attach(books: Books, method: Document, customer: str, *, set_up: bool = False) -> Document:
    """Save a card for later; `set_up`: its owner agreed to payments in their absence. Raises Declined, Invalid."""
    if method["customer"] not in (None, customer):
        raise Invalid("The payment method you provided has already been attached to a customer.")
    if method.get("_spent"):
        raise Invalid(
            "This PaymentMethod was previously used without being attached to a Customer or was detached from a "
            "Customer, and may not be used again."
        )
    card = cards.BY_NUMBER[method["_number"]]
    if card.refusal and not card.attaches:
        code, decline, message = cards.REFUSALS[card.refusal]
        raise Declined(message, str(code), decline, payment_method=method)
    already = method["customer"] is not None
    method |= {"customer": customer, "_set_up": set_up or method.get("_set_up", False)}
    books.save(method)
    if not already:
        books.emit("payment_method.attached", method)
    return method


def detach_method(call: Call) -> Document:
    """Handle `POST /v1/payment_methods/{id}/detach`."""
    method = call.books.get("payment_method", call.names["id"])
    if method["customer"] is None:
        raise Invalid("The payment method you provided is not attached to a customer so detachment is impossible.")
    return _detach(call.books, method)


def list_methods(call: Call) -> Document:
    """Handle `GET /v1/payment_methods` and `GET /v1/customers/{id}/payment_methods`."""
    conditions = [(f"{field(name)} = ?", call.params.get(name)) for name in ("type", "customer") if name in call.params]
    if "id" in call.names:
        conditions.append((f"{field('customer')} = ?", call.books.get("customer", call.names["id"])["id"]))
    return listed(call, "payment_method", conditions)


def _detach(books: Books, method: Document) -> Document:
    before = {"customer": method["customer"]}
    method |= {"customer": None, "_spent": True}
    books.save(method)
    books.emit("payment_method.detached", method, before)
    return method


def _billing(call: Call) -> Document:
    return nulls(stripe.PaymentMethod.BillingDetails) | call.params.part("billing_details").plain()


def _given(call: Call, customer: Document) -> Document:
    fields: Document = {name: text(call.params.get(name)) for name in TEXTS if name in call.params}
    if "address" in call.params:
        fields["address"] = nulls(stripe.Customer.Address) | call.params.part("address").plain()
    if "invoice_settings" in call.params:
        fields["invoice_settings"] = (
            nulls(stripe.Customer.InvoiceSettings) | call.params.part("invoice_settings").plain()
        )
        if default := text(fields["invoice_settings"]["default_payment_method"]):
            call.books.get("payment_method", default, "invoice_settings[default_payment_method]")
    return fields | {"metadata": call.merged_metadata(customer)}
