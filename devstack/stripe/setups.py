"""SetupIntents: save a card without a payment."""

from devstack.stripe import customers, sessions
from devstack.stripe.books import Books, Call, address, text
from devstack.stripe.cards import BY_NUMBER
from devstack.stripe.errors import Declined, Document, Invalid
from devstack.stripe.objects import random_text, shown
from devstack.stripe.parameters import Parameters


def create(call: Call) -> Document:
    """Handle `POST /v1/setup_intents`; with `confirm` the card is saved at once. Raises Declined, Invalid."""
    books, params = call.books, call.params
    customer = params.get("customer")
    automatic = params.part("automatic_payment_methods")
    redirects = automatic.get("allow_redirects", "always")
    setup = new(
        books,
        automatic_payment_methods={"enabled": automatic.get("enabled", True), "allow_redirects": redirects},
        customer=books.get("customer", customer, "customer")["id"] if customer else None,
        description=text(params.get("description")),
        metadata=call.merged_metadata({}),
        usage=params.get("usage", "off_session"),
    )
    _take_method(books, setup, params)
    return _try(books, setup, params) if params.get("confirm") else setup


def new(books: Books, **fields: object) -> Document:
    """Create a SetupIntent without a payment method, with its event."""
    setup = books.create(
        "setup_intent",
        **{"payment_method_types": ["card"], "status": "requires_payment_method", "usage": "off_session"} | fields,
    )
    setup["client_secret"] = f"{setup['id']}_secret_{random_text(25)}"
    books.save(setup)
    books.emit("setup_intent.created", setup)
    return setup


def authenticate(books: Books, setup: Document, passed: bool) -> None:
    """Apply the bank's answer to a SetupIntent that `requires_action`. Raises Declined, Invalid."""
    if setup["status"] != "requires_action":
        raise Invalid(f"This SetupIntent is {setup['status']}.", code="setup_intent_unexpected_state")
    if passed:
        _save_card(books, setup)
        return
    message = "The latest attempt to set up the payment method has failed because authentication failed."
    _fail(books, setup, Declined(message, "setup_intent_authentication_failure", None))


def _try(books: Books, setup: Document, params: Parameters) -> Document:
    if not setup["payment_method"]:
        message = "You cannot confirm this SetupIntent because it's missing a payment method."
        raise Invalid(message, code="setup_intent_unexpected_state", setup_intent=shown(setup))
    return_url = address(params, "return_url")
    attempt(books, setup, books.get("payment_method", setup["payment_method"]), return_url)
    return setup


def attempt(books: Books, setup: Document, method: Document, return_url: str | None = None) -> None:
    """Save the card, or send its owner to their bank (`requires_action`). Raises Declined, Invalid."""
    setup["payment_method"] = method["id"]
    if not BY_NUMBER[method["_number"]].authentication:
        _save_card(books, setup)
        return
    setup |= {"status": "requires_action", "next_action": books.bank_redirect(setup, return_url)}
    books.save(setup)
    books.emit("setup_intent.requires_action", setup)


def _save_card(books: Books, setup: Document) -> None:
    method = books.get("payment_method", setup["payment_method"])
    try:
        if setup["customer"]:
            customers.attach(books, method, setup["customer"], set_up=setup["usage"] == "off_session")
    except Declined as refused:
        _fail(books, setup, refused)
        raise
    setup |= {"status": "succeeded", "next_action": None, "last_setup_error": None}
    books.save(setup)
    books.emit("setup_intent.succeeded", setup)
    sessions.follow(books, setup)


def _fail(books: Books, setup: Document, refused: Declined) -> None:
    error = refused.document()["error"]
    fields = {"status": "requires_payment_method", "next_action": None, "payment_method": None}
    setup |= fields | {"last_setup_error": error}
    books.save(setup)
    books.emit("setup_intent.setup_failed", setup)
    refused.more["setup_intent"] = shown(setup)


def _take_method(books: Books, setup: Document, params: Parameters) -> None:
    if "payment_method" in params:
        method = customers.method_for(books, params.get("payment_method"))
        setup |= {"payment_method": method["id"], "status": "requires_confirmation"}
    books.save(setup)
