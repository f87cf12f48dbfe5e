"""Products and prices, to the extent that a Checkout Session of mode payment needs them."""

from typing import Any

from devstack.stripe.books import Books, Call, text
from devstack.stripe.currencies import MAXIMUM
from devstack.stripe.errors import Document, Invalid
from devstack.stripe.parameters import Parameters


def create_product(call: Call) -> Document:
    """Handle `POST /v1/products`."""
    product = new_product(call.books, call.params)
    if "default_price_data" in call.params:
        price = new_price(call.books, call.params.part("default_price_data"), product["id"])
        product["default_price"] = price["id"]
        call.books.save(product)
    return product


def create_price(call: Call) -> Document:
    """Handle `POST /v1/prices`, for a product that exists or for `product_data`."""
    return new_price(call.books, call.params, _product_of(call.books, call.params))


def new_product(books: Books, given: Parameters, *, hidden: bool = False) -> Document:
    """Create a product; `hidden` makes the inactive product of a line item's `product_data`."""
    given.require("name")
    own = {"active": not hidden, "images": [], "marketing_features": [], "type": "service", "updated": books.now}
    fields = own | _fields(given, "active", "name", "description", "images", "unit_label", "tax_code", "metadata")
    product = books.create("product", **fields)
    books.emit("product.created", product)
    return product


def new_price(books: Books, given: Parameters, product: str, *, hidden: bool = False) -> Document:
    """Create a price for one payment. Raises Invalid."""
    given.require("currency", "unit_amount")
    amount = given.get("unit_amount")
    if not 0 <= amount <= MAXIMUM:
        raise Invalid("Invalid non-negative integer", code="parameter_invalid_integer", param="unit_amount")
    own = {"active": not hidden, "billing_scheme": "per_unit", "type": "one_time", "tax_behavior": "unspecified"}
    fields = own | _fields(given, "active", "nickname", "lookup_key", "tax_behavior", "metadata")
    price = books.create(
        "price",
        **fields,
        currency=given.get("currency").lower(),
        product=product,
        unit_amount=amount,
        unit_amount_decimal=str(amount),
    )
    books.emit("price.created", price)
    return price


def price_of(books: Books, item: Parameters) -> Document:
    """Return the price that a line item names, or create one from its `price_data`. Raises Invalid, NotFound."""
    if "price" in item:
        price = books.get("price", item.get("price"), "line_items[0][price]")
        if not price["active"]:
            raise Invalid(f"The price specified is inactive: {price['id']}", code="price_inactive")
        return price
    if "price_data" not in item:
        raise Invalid("You must specify either `price` or `price_data` for each line item.", param="line_items")
    data = item.get("price_data")
    return new_price(books, data, _product_of(books, data), hidden=True)


def _product_of(books: Books, given: Parameters) -> str:
    if "product" in given:
        return str(books.get("product", given.get("product"), "product")["id"])
    given.require("product_data")
    return str(new_product(books, given.get("product_data"), hidden=True)["id"])


def _fields(given: Parameters, *names: str) -> dict[str, Any]:
    values = {name: given.get(name) for name in names if name in given}
    return {name: text(value) if isinstance(value, str) else value for name, value in values.items()}
