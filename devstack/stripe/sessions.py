"""Checkout Sessions of mode payment or setup on Stripe's own page: created, expired, completed. Not for paying them."""

import stripe

from devstack.stripe import catalogue, currencies, customers
from devstack.stripe.books import Books, Call, address, text
from devstack.stripe.errors import Document, Invalid
from devstack.stripe.objects import nulls, page
from devstack.stripe.parameters import Parameters

SHORTEST, LONGEST = 30 * 60, 24 * 3600
METHODS = ("card", "us_bank_account", "sepa_debit")
ECHOED = (
    "allow_promotion_codes", "billing_address_collection", "client_reference_id", "customer", "customer_creation",
    "customer_email", "locale", "submit_type",
)  # fmt: skip
INTENT = ("description", "receipt_email", "setup_future_usage", "statement_descriptor_suffix", "transfer_group")


def create(call: Call) -> Document:
    """Handle `POST /v1/checkout/sessions`."""
    books, params = call.books, call.params
    params.require("mode", "success_url")
    mode = params.get("mode")
    if mode not in ("payment", "setup") or params.get("ui_mode", "hosted_page") != "hosted_page":
        raise Invalid("This double supports only modes payment and setup, and ui_mode hosted_page.", stored=False)
    for name in ("customer_email", "customer_creation"):
        if name in params and "customer" in params:
            raise Invalid(f"You may only specify one of these parameters: customer, {name}.", stored=False, param=name)
    items, currency = _lines(books, params) if mode == "payment" else ([], _setup_currency(params))
    total = sum(item["amount_total"] for item in items) if items else None
    session = books.create(
        "checkout.session",
        **{name: params.get(name) for name in ECHOED},
        **{name: address(params, name) for name in ("success_url", "cancel_url")},
        amount_subtotal=total,
        amount_total=total,
        currency=currency,
        **_taxes(books, params),
        custom_fields=[],
        custom_text=nulls(stripe.checkout.Session.CustomText),
        expires_at=_expiry(books, params),
        metadata=call.merged_metadata({}),
        mode=mode,
        payment_method_types=_methods(params),
        payment_status="unpaid" if items else "no_payment_required",
        shipping_options=[],
        status="open",
        total_details={"amount_discount": 0, "amount_shipping": 0, "amount_tax": 0} if items else None,
        ui_mode="hosted_page",
        _items=items,
        _intent=_intent_data(params),
    )
    if items and session["customer"] is None and session["customer_creation"] is None:
        session["customer_creation"] = "if_required"
    session["url"] = f"{books.url}/c/pay/{session['id']}"
    books.save(session)
    return session


def line_items(call: Call) -> Document:
    """Handle `GET /v1/checkout/sessions/{id}/line_items`."""
    items = call.books.get("checkout.session", call.names["id"])["_items"]
    limit, after = call.params.get("limit", 10), call.params.get("starting_after")
    first = next((number + 1 for number, item in enumerate(items) if item["id"] == after), 0)
    return page(call.path, items[first : first + limit], len(items) > first + limit)


def expire_now(call: Call) -> Document:
    """Handle `POST /v1/checkout/sessions/{id}/expire`."""
    session = call.books.get("checkout.session", call.names["id"])
    if session["status"] != "open":
        raise Invalid(
            'Only Checkout Sessions with a status in ["open"] can be expired. This Checkout Session has a status of '
            f"{session['status']}."
        )
    return expire(call.books, session)


def expire(books: Books, session: Document) -> Document:
    """Expire a session, so that nobody can pay it any more."""
    session |= {"status": "expired", "url": None}
    books.save(session)
    if session["payment_intent"]:
        intent = books.get("payment_intent", session["payment_intent"])
        intent |= {"status": "canceled", "canceled_at": books.now, "next_action": None}
        books.save(intent)
        books.emit("payment_intent.canceled", intent)
    books.emit("checkout.session.expired", session)
    return session


def payer(books: Books, session: Document, email: str, name: str) -> str | None:
    """Return the paying customer: the session's, a new one if one is wanted, or None."""
    wanted = session["customer_creation"] == "always" or session["_intent"].get("setup_future_usage")
    if session["customer"] or session.get("_customer") or not wanted:
        return session["customer"] or session.get("_customer")
    session["_customer"] = customers.new(books, email=email, name=name or None)["id"]
    books.save(session)
    return str(session["_customer"])


def follow(books: Books, intent: Document) -> None:
    """Update the session of this PaymentIntent or SetupIntent, if it has one, with what became of it."""
    if "_session" not in intent:
        return
    session = books.get("checkout.session", intent["_session"])
    paid = intent["status"] == "succeeded"
    if session["status"] == "open" and intent["status"] in ("succeeded", "processing"):
        status = "no_payment_required" if session["mode"] == "setup" else "paid" if paid else "unpaid"
        session |= {"status": "complete", "payment_status": status, "url": None, "customer": intent["customer"]}
        books.save(session)
        books.emit("checkout.session.completed", session)
    elif session["status"] == "complete" and session["payment_status"] == "unpaid":
        if paid:
            session["payment_status"] = "paid"
            books.save(session)
        books.emit(f"checkout.session.async_payment_{'succeeded' if paid else 'failed'}", session)


def _lines(books: Books, params: Parameters) -> tuple[list[Document], str]:
    params.require("line_items")
    items = [_line(books, item) for item in params.get("line_items")]
    if len({item["currency"] for item in items}) > 1:
        raise Invalid("All line items must have the same currency.", param="line_items")
    currencies.check(sum(item["amount_total"] for item in items), items[0]["currency"], "line_items")
    return items, items[0]["currency"]


def _setup_currency(params: Parameters) -> str | None:
    """Return the currency. Raises Invalid unless it, or the kinds of payment methods, are given."""
    if "allowed_payment_method_types" not in params:
        params.require("currency")
    if "line_items" in params:
        raise Invalid("`line_items` cannot be used in `setup` mode.", stored=False, param="line_items")
    currency: str | None = params.get("currency")
    return currency


def _line(books: Books, item: Parameters) -> Document:
    price = catalogue.price_of(books, item)
    quantity = item.get("quantity", 1)
    if not 1 <= quantity <= 999_999:
        raise Invalid("Quantity must be positive.", code="parameter_invalid_integer", param="line_items[0][quantity]")
    amount = price["unit_amount"] * quantity
    line = books.create("item", amount_subtotal=amount, amount_total=amount, quantity=quantity)
    line |= {"amount_discount": 0, "amount_tax": 0, "currency": price["currency"], "price": price}
    line |= {"description": books.get("product", price["product"])["name"]}
    del line["created"]
    return line


def _taxes(books: Books, params: Parameters) -> Document:
    automatic = params.part("automatic_tax").get("enabled", False)
    ids = params.part("tax_id_collection")
    update = params.part("customer_update").plain()
    customer = books.get("customer", params.get("customer"), "customer") if "customer" in params else None
    if (
        customer
        and automatic
        and not customer["address"]
        and "auto" not in (update.get("address"), update.get("shipping"))
    ):
        raise Invalid(
            "Automatic tax calculation in Checkout requires a valid address on the Customer. Add a valid address to "
            "the Customer or set either `customer_update[address]` to 'auto' or `customer_update[shipping]` to 'auto' "
            "to save the address entered in Checkout to the Customer.",
            code="customer_tax_location_invalid",
        )
    if customer and ids.get("enabled") and update.get("name") != "auto":
        raise Invalid(
            "Tax ID collection requires updating business name on the customer. To enable tax ID collection for an "
            "existing customer, please set `customer_update[name]` to `auto`."
        )
    status = "requires_location_inputs" if automatic else None
    return {
        "automatic_tax": {"enabled": automatic, "liability": None, "provider": None, "status": status},
        "tax_id_collection": {"enabled": ids.get("enabled", False), "required": ids.get("required", "never")},
    }


def _expiry(books: Books, params: Parameters) -> int:
    expiry: int = params.get("expires_at", books.now + LONGEST)
    if not SHORTEST - 60 <= expiry - books.now <= LONGEST + 60:
        message = "The `expires_at` timestamp must be between 30 minutes and 24 hours from Checkout Session creation."
        raise Invalid(message, param="expires_at")
    return expiry


def _methods(params: Parameters) -> list[str]:
    allowed: list[str] = params.get("allowed_payment_method_types") or ["card", "us_bank_account"]
    if unknown := [each for each in allowed if each not in METHODS]:
        raise Invalid(f"This double does not support payment methods of type {unknown[0]}.", stored=False)
    return allowed


def _intent_data(params: Parameters) -> Document:
    data = params.part("payment_intent_data")
    fields = {name: text(data.get(name)) for name in INTENT if name in data}
    return fields | {"metadata": data.get("metadata") or {}}
