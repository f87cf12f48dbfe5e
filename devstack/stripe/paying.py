"""What people do on the hosted pages: pay a session, answer their bank, complete an onboarding."""

from dataclasses import dataclass

import stripe

from devstack.stripe import connect, customers, payments, recipients, sessions, setups
from devstack.stripe.books import Books
from devstack.stripe.cards import BY_NUMBER, REFUSALS
from devstack.stripe.errors import Declined, Document, Invalid
from devstack.stripe.objects import nulls

BANKS = ("us_bank_account", "sepa_debit")


@dataclass(frozen=True)
class Form:
    """The payment page's form; `method` is card or one of BANKS."""

    email: str
    name: str = ""
    method: str = "card"
    number: str = ""
    expiry: str = ""
    tax_id: str = ""


def pay(books: Books, session: Document, form: Form) -> Document:
    """Pay an open session, or save its card; return the intent as it is then. Raises Declined, Invalid."""
    if session["status"] != "open" or session["expires_at"] <= books.now:
        raise Invalid("This Checkout Session is no longer open.")
    if not 3 <= len(form.email) <= 254 or "@" not in form.email:
        raise Invalid("Your email is invalid.", code="email_invalid", param="email")
    method = _method(books, session, form)
    session["customer_details"] = nulls(stripe.checkout.Session.CustomerDetails) | {
        "email": form.email,
        "name": form.name or None,
        "tax_exempt": "none",
        "tax_ids": [{"type": "unknown", "value": form.tax_id}] if form.tax_id else [],
    }
    if session["automatic_tax"]["enabled"]:
        session["automatic_tax"]["status"] = "complete"
    books.save(session)
    if session["mode"] == "setup":
        intent = _setup(books, session)
        setups.attempt(books, intent, method)
    else:
        intent = _intent(books, session, form)
        payments.attempt(books, intent, method)
    return intent


def answer_bank(books: Books, waiting: Document, passed: bool) -> None:
    """Pass on the customer's yes or no to their bank. Raises Declined, Invalid."""
    (payments if waiting["object"] == "payment_intent" else setups).authenticate(books, waiting, passed)


def complete_onboarding(books: Books, account: Document) -> None:
    """Complete an onboarding: the owner has given all details, and Stripe has accepted them."""
    connect.set_state(books, account, dict.fromkeys(connect.STATES, True))
    if "_recipient" in account:
        recipients.set_status(books, account, "active")


def _method(books: Books, session: Document, form: Form) -> Document:
    if form.method not in session["payment_method_types"]:
        raise Invalid(f"This session cannot be paid by {form.method[:50]}.", param="method")
    billing = nulls(stripe.PaymentMethod.BillingDetails) | {"email": form.email, "name": form.name or None}
    if form.method in BANKS:
        return books.create(
            "payment_method", type=form.method, billing_details=billing, **{form.method: {"last4": "6789"}}
        )
    card = BY_NUMBER.get("".join(form.number.split()))
    if not card:
        code, decline_code, message = REFUSALS["test_mode_live_card"]
        raise Declined(str(message), str(code), decline_code)
    month, _, year = (form.expiry or "12/34").replace(" ", "").partition("/")
    if not (month.isdecimal() and year.isdecimal() and len(month) <= 2 and len(year) == 2):
        raise Invalid("Your card's expiration date is incomplete.", code="invalid_expiry_month", param="expiry")
    return customers.new_method(books, card, int(month), 2000 + int(year), billing_details=billing)


def _intent(books: Books, session: Document, form: Form) -> Document:
    if session["payment_intent"]:
        return books.get("payment_intent", session["payment_intent"])
    customer = sessions.payer(books, session, form.email, form.name)
    intent = payments.new(
        books,
        amount=session["amount_total"],
        currency=session["currency"],
        customer=customer,
        payment_method_types=session["payment_method_types"],
        automatic_payment_methods=None,
        **session["_intent"],
        _session=session["id"],
    )
    session["payment_intent"] = intent["id"]
    books.save(session)
    return intent


def _setup(books: Books, session: Document) -> Document:
    if session["setup_intent"]:
        return books.get("setup_intent", session["setup_intent"])
    setup = setups.new(books, customer=session["customer"], _session=session["id"])
    session["setup_intent"] = setup["id"]
    books.save(session)
    return setup
