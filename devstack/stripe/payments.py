"""PaymentIntents: from the amount to a charge or a refusal, if necessary by way of the customer's bank."""

from typing import Any

from devstack.stripe import charges, currencies, customers, disputes, sessions
from devstack.stripe.books import Books, Call, address, text
from devstack.stripe.cards import BY_NUMBER, REFUSALS, Card
from devstack.stripe.errors import Declined, Document, Invalid
from devstack.stripe.objects import random_text, shown
from devstack.stripe.parameters import Parameters

CONFIRMABLE = ("requires_payment_method", "requires_confirmation", "requires_action")
CANCELABLE = ("requires_payment_method", "requires_capture", "requires_confirmation", "requires_action", "processing")
TEXTS = ("description", "receipt_email", "setup_future_usage", "statement_descriptor_suffix", "transfer_group")
AT_CONFIRMATION = ("off_session", "return_url", "error_on_requires_action")


def create(call: Call) -> Document:
    """Handle `POST /v1/payment_intents`; with `confirm` it is charged at once. Raises Declined, Invalid."""
    books, params = call.books, call.params
    if not params.get("confirm"):
        for name in AT_CONFIRMATION:
            if name in params:
                raise Invalid(f"`{name}` can only be given with `confirm`.", stored=False, param=name)
    customer = params.get("customer")
    automatic = params.part("automatic_payment_methods")
    fields: Document = {name: text(params.get(name)) for name in TEXTS if name in params}
    intent = new(
        books,
        amount=_amount(params.get("amount"), params.get("currency").lower()),
        currency=params.get("currency").lower(),
        customer=books.get("customer", customer, "customer")["id"] if customer else None,
        metadata=call.merged_metadata({}),
        payment_method_types=params.get("allowed_payment_method_types") or ["card"],
        allowed_payment_method_types=params.get("allowed_payment_method_types"),
        automatic_payment_methods=_automatic(automatic) if "allowed_payment_method_types" not in params else None,
        **fields,
    )
    _take_method(books, intent, params)
    return confirm_by(books, intent, params) if params.get("confirm") else intent


def new(books: Books, **fields: Any) -> Document:
    """Create a PaymentIntent without a payment method, with its event."""
    intent = books.create(
        "payment_intent",
        amount_capturable=0,
        amount_received=0,
        capture_method="automatic_async",
        confirmation_method="automatic",
        status="requires_payment_method",
        **fields,
    )
    intent["client_secret"] = f"{intent['id']}_secret_{random_text(25)}"
    books.save(intent)
    books.emit("payment_intent.created", intent)
    return intent


def confirm(call: Call) -> Document:
    """Handle `POST /v1/payment_intents/{id}/confirm`. Raises Declined, Invalid."""
    intent = call.books.get("payment_intent", call.names["id"])
    _must_be_confirmable(intent)
    fields = {name: text(call.params.get(name)) for name in TEXTS if name in call.params}
    intent |= fields
    _take_method(call.books, intent, call.params)
    return confirm_by(call.books, intent, call.params)


def confirm_by(books: Books, intent: Document, params: Parameters) -> Document:
    """Try the PaymentIntent's payment method, as the parameters of a confirmation say."""
    off_session, return_url = bool(params.get("off_session")), address(params, "return_url")
    automatic = intent["automatic_payment_methods"]
    if not intent["payment_method"]:
        raise _unexpected(intent, "You cannot confirm this PaymentIntent because it's missing a payment method: it is")
    if automatic and automatic["allow_redirects"] == "always" and not (off_session or return_url):
        raise Invalid(
            "This PaymentIntent is configured to accept payment methods enabled in your Dashboard. Because some of "
            "these payment methods might redirect your customer off of your page, you must provide a `return_url`. If "
            "you don't want to accept redirect-based payment methods, set `automatic_payment_methods[enabled]` to "
            "`true` and `automatic_payment_methods[allow_redirects]` to `never` when creating Setup Intents and "
            "Payment Intents."
        )
    method = books.get("payment_method", intent["payment_method"])
    strict = params.get("error_on_requires_action", False)
    attempt(books, intent, method, off_session=off_session or strict, return_url=return_url)
    return intent


def cancel(call: Call) -> Document:
    """Handle `POST /v1/payment_intents/{id}/cancel`."""
    intent = call.books.get("payment_intent", call.names["id"])
    if intent["status"] not in CANCELABLE:
        only = f" Only a PaymentIntent with one of the following statuses may be canceled: {', '.join(CANCELABLE)}."
        raise _unexpected(intent, "You cannot cancel this PaymentIntent because it has a status of", only)
    if "_session" in intent:
        raise _unexpected(intent, "Expire the Checkout Session of this PaymentIntent instead; it has a status of")
    if intent["status"] == "processing":
        call.books.save(call.books.get("charge", intent["latest_charge"]) | {"status": "failed"})
    reason = call.params.get("cancellation_reason")
    intent |= {"status": "canceled", "canceled_at": call.books.now, "cancellation_reason": reason, "next_action": None}
    call.books.save(intent)
    call.books.emit("payment_intent.canceled", intent)
    return intent


def attempt(
    books: Books,
    intent: Document,
    method: Document,
    *,
    off_session: bool = False,
    return_url: str | None = None,
    authenticated: bool = False,
) -> None:
    """Charge the method, or send its owner to their bank (`requires_action`). Raises Declined, Invalid."""
    _must_be_usable(intent, method)
    card = BY_NUMBER.get(method.get("_number", ""))
    intent |= {"payment_method": method["id"], "next_action": None, "last_payment_error": None}
    if card is None:
        _process(books, intent, method)
    elif not authenticated and needs_authentication(card, method):
        if off_session:
            raise _decline(books, intent, method, "authentication_required")
        intent |= {"status": "requires_action", "next_action": books.bank_redirect(intent, return_url)}
        books.save(intent)
        books.emit("payment_intent.requires_action", intent)
    elif card.refusal:
        raise _decline(books, intent, method, card.refusal)
    elif card.waits and off_session:
        _process(books, intent, method)
    else:
        _succeed(books, intent, charges.create(books, intent, method, "succeeded"), card)
        _keep_card(books, intent, method)


def authenticate(books: Books, intent: Document, passed: bool) -> None:
    """Apply the bank's answer to a PaymentIntent that `requires_action`. Raises Declined, Invalid."""
    if intent["status"] != "requires_action":
        raise _unexpected(intent, "This PaymentIntent is not waiting for its customer; it has a status of")
    method = books.get("payment_method", intent["payment_method"])
    if passed:
        attempt(books, intent, method, authenticated=True)
        return
    message = (
        "We are unable to authenticate your payment method. Please choose a different payment method and try again."
    )
    error = _error("payment_intent_authentication_failure", None, message, method)
    intent |= {"status": "requires_payment_method", "next_action": None, "last_payment_error": error}
    intent["payment_method"] = None
    books.save(intent)
    books.emit("payment_intent.payment_failed", intent)


def complete(books: Books, intent: Document, succeeded: bool) -> None:
    """End a payment that takes days. Raises Invalid if it is not under way."""
    if intent["status"] != "processing":
        raise _unexpected(intent, "This PaymentIntent is not processing; it has a status of")
    charge = books.get("charge", intent["latest_charge"])
    if succeeded:
        charge |= {"status": "succeeded", "paid": True, "receipt_url": f"{books.url}/receipts/{charge['id']}"}
        books.save(charge)
        _succeed(books, intent, charge, None)
        return
    message = "The customer's bank account could not be debited."
    charge |= {
        "status": "failed",
        "paid": False,
        "failure_code": "payment_method_bank_debit",
        "failure_message": message,
    }
    books.save(charge)
    error = _error("payment_method_provider_decline", None, message, None)
    intent |= {"status": "requires_payment_method", "last_payment_error": error}
    books.save(intent)
    books.emit("charge.failed", charge)
    books.emit("payment_intent.payment_failed", intent)
    sessions.follow(books, intent)


def needs_authentication(card: Card, method: Document) -> bool:
    """Return whether the card's bank asks its owner first."""
    return card.authentication == "always" or (card.authentication == "unless_set_up" and not method.get("_set_up"))


def _succeed(books: Books, intent: Document, charge: Document, card: Card | None) -> None:
    intent |= {"status": "succeeded", "amount_received": intent["amount"], "latest_charge": charge["id"]}
    books.save(intent)
    books.emit("charge.succeeded", charge)
    books.emit("payment_intent.succeeded", intent)
    sessions.follow(books, intent)
    charges.book(books, charge, card)
    if card and card.warned:
        disputes.warn(books, charge, "made_with_stolen_card")
    if card and card.disputed:
        disputes.open_dispute(books, charge)


def _process(books: Books, intent: Document, method: Document) -> None:
    charge = charges.create(books, intent, method, "pending")
    intent |= {"status": "processing", "latest_charge": charge["id"]}
    books.save(intent)
    books.emit("payment_intent.processing", intent)
    books.emit("charge.pending", charge)
    sessions.follow(books, intent)


def _decline(books: Books, intent: Document, method: Document, refusal: str) -> Declined:
    charge = charges.create(books, intent, method, "failed", refusal)
    code, decline_code, message = REFUSALS[refusal]
    error = _error(str(code), decline_code, str(message), method) | {"charge": charge["id"]}
    intent |= {"status": "requires_payment_method", "latest_charge": charge["id"], "last_payment_error": error}
    intent["payment_method"] = None
    books.save(intent)
    books.emit("charge.failed", charge)
    books.emit("payment_intent.payment_failed", intent)
    more = {"charge": charge["id"], "payment_intent": shown(intent), "payment_method": shown(method)}
    return Declined(str(message), str(code), decline_code, **more)


def _keep_card(books: Books, intent: Document, method: Document) -> None:
    if intent["setup_future_usage"] and intent["customer"]:
        customers.attach(books, method, intent["customer"], set_up=intent["setup_future_usage"] == "off_session")
    elif method["customer"] is None:
        books.save(method | {"_spent": True})


def _error(code: str, decline_code: str | None, message: str, method: Document | None) -> Document:
    error = Declined(message, code, decline_code, payment_method=shown(method) if method else None)
    body: Document = error.document()["error"]
    return body


def _must_be_usable(intent: Document, method: Document) -> None:
    if method.get("_spent"):
        raise Invalid(
            "The provided PaymentMethod was previously used with a PaymentIntent without Customer attachment, shared "
            "with a connected account without Customer attachment, or was detached from a Customer. It may not be "
            "used again. To use a PaymentMethod multiple times, you must attach it to a Customer first."
        )
    if method["customer"] not in (None, intent["customer"]):
        message = f"The customer does not have a payment method with the ID {method['id']}. "
        raise Invalid(message + "The payment method must be attached to the customer.", param="payment_method")


def _must_be_confirmable(intent: Document) -> None:
    if intent["status"] == "succeeded":
        message = (
            "You cannot confirm this PaymentIntent because it has already succeeded after being previously confirmed."
        )
        raise Invalid(message, code="payment_intent_unexpected_state", payment_intent=shown(intent))
    if intent["status"] not in CONFIRMABLE:
        raise _unexpected(intent, "You cannot confirm this PaymentIntent because it has a status of")


def _take_method(books: Books, intent: Document, params: Parameters) -> None:
    if "payment_method" not in params:
        return
    method = customers.method_for(books, params.get("payment_method"))
    _must_be_usable(intent, method)
    intent |= {"payment_method": method["id"], "status": "requires_confirmation", "next_action": None}
    books.save(intent)


def _amount(amount: int, currency: str) -> int:
    if amount < 1:
        raise Invalid("Invalid positive integer", stored=False, code="parameter_invalid_integer", param="amount")
    return currencies.check(amount, currency, "amount")


def _automatic(given: Parameters) -> Document:
    return {"enabled": given.get("enabled", True), "allow_redirects": given.get("allow_redirects", "always")}


def _unexpected(intent: Document, sentence: str, advice: str = "") -> Invalid:
    message = f"{sentence} {intent['status']}.{advice}"
    return Invalid(message, code="payment_intent_unexpected_state", payment_intent=shown(intent))
