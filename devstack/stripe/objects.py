"""Objects as Stripe shows them: fields as in the SDK's classes, `expand`, lists."""

import secrets
import string
from functools import cache
from typing import Any, ForwardRef, get_args

import stripe

from devstack.stripe.errors import Document, Invalid

LETTERS = string.ascii_letters + string.digits
MAX_EXPAND = 4
# Stripe leaves these out unless they have content or are asked for.
ABSENT = frozenset({"deleted", "sources", "subscriptions", "tax_ids", "refunds", "line_items", "test_clock", "tiers"})
KINDS: dict[str, tuple[type, str]] = {
    "account": (stripe.Account, "acct_1"),
    "balance_transaction": (stripe.BalanceTransaction, "txn_3"),
    "charge": (stripe.Charge, "ch_3"),
    "checkout.session": (stripe.checkout.Session, "cs_test_a1"),
    "customer": (stripe.Customer, "cus_"),
    "dispute": (stripe.Dispute, "du_1"),
    "event": (stripe.Event, "evt_1"),
    "item": (stripe.LineItem, "li_1"),
    "payment_intent": (stripe.PaymentIntent, "pi_3"),
    "payment_method": (stripe.PaymentMethod, "pm_1"),
    "price": (stripe.Price, "price_1"),
    "product": (stripe.Product, "prod_"),
    "radar.early_fraud_warning": (stripe.radar.EarlyFraudWarning, "issfr_1"),
    "refund": (stripe.Refund, "re_3"),
    "setup_intent": (stripe.SetupIntent, "seti_1"),
    "transfer": (stripe.Transfer, "tr_1"),
    "transfer_reversal": (stripe.TransferReversal, "trr_1"),
}


def new_id(kind: str) -> str:
    """Return a new identifier, e.g. `cus_…`."""
    return KINDS[kind][1] + random_text(58 if kind == "checkout.session" else 23)


def random_text(length: int) -> str:
    """Return unguessable letters and digits."""
    return "".join(secrets.choice(LETTERS) for _ in range(length))


def blank(kind: str) -> Document:
    """Return the kind's nullable fields as null, with empty metadata and test mode if the kind has them."""
    fields = _fields(KINDS[kind][0])
    nullable = [name for name, hint in fields.items() if type(None) in get_args(hint) and name not in ABSENT]
    if kind == "payment_method":  # the SDK has a key for every type; an object has only its own
        nullable = ["allow_redisplay", "customer", "customer_account"]
    always = {"livemode": False, "metadata": {}}
    return dict.fromkeys(nullable) | {name: value for name, value in always.items() if name in fields}


def nulls(part: type) -> Document:
    """Return the same for an object inside an object, e.g. `stripe.Dispute.Evidence`."""
    return dict.fromkeys(_fields(part))


def expandable(kind: str, name: str) -> bool:
    """Return whether the field holds an id that `expand` turns into the object."""
    hint = _fields(KINDS[kind][0]).get(name)
    return hint is not None and str in get_args(hint) and any(_names_object(each) for each in get_args(hint))


def shown(document: Document) -> Document:
    """Return an object without the double's own fields, which begin with `_`."""
    return {name: value for name, value in document.items() if not name.startswith("_")}


def page(url: str, data: list[Document], has_more: bool = False) -> Document:
    """Return a list object."""
    return {"object": "list", "data": data, "has_more": has_more, "url": url}


def expand_paths(paths: list[str]) -> dict[str, Any]:
    """Return `["data.customer", "data.latest_charge.refunds"]` as a tree. Raises Invalid below four levels."""
    tree: dict[str, Any] = {}
    for path in paths:
        names = path.split(".")
        if len(names) > MAX_EXPAND:
            message = f"You cannot expand more than {MAX_EXPAND} levels of a property. Property: {path[:200]}"
            raise Invalid(message, stored=False, param="expand")
        node = tree
        for name in names:
            node = node.setdefault(name, {})
    return tree


def _names_object(hint: Any) -> bool:
    return isinstance(hint, ForwardRef) or (isinstance(hint, type) and issubclass(hint, stripe.StripeObject))


@cache
def _fields(each: type) -> dict[str, Any]:
    return {name: hint for name, hint in each.__annotations__.items() if name != "OBJECT_NAME"}
