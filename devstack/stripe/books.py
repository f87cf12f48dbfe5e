"""One transaction's view of the double: creates, finds and changes objects, and emits the events about them."""

import re
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

from stripe import api_version

from devstack.stripe import objects, store, webhooks
from devstack.stripe.errors import Document, Invalid, NotFound
from devstack.stripe.parameters import Parameters

MAX_PAGE, PAGE = 100, 10
URL = re.compile(r"https?://[\x21-\x7e]{1,2000}")


@dataclass
class Books:
    """The objects as one transaction sees them.

    `request` and `key` are the request id and idempotency key that its events name as their cause.
    """

    connection: sqlite3.Connection
    url: str
    request: str | None = None
    key: str | None = None
    notifies: bool = False
    now: int = field(init=False)

    def __post_init__(self) -> None:
        self.now = int(store.now(self.connection))

    def create(self, kind: str, **fields: Any) -> Document:
        """Create an object; fields that are not given are null."""
        document = {"id": objects.new_id(kind), "object": kind, **objects.blank(kind), "created": self.now, **fields}
        store.insert(self.connection, document)
        return document

    def get(self, kind: str, identifier: str, param: str | None = None, *, deleted: bool = False) -> Document:
        """Return an object. Raises NotFound, naming `param` if a parameter gave the id; deleted ones need `deleted`."""
        document = store.read(self.connection, identifier)
        if not document or document["object"] != kind or (document.get("deleted") and not deleted):
            raise NotFound(kind, identifier[:200], param)
        return document

    def find(self, kind: str, **equal: Any) -> list[Document]:
        """Return all objects of a kind whose fields have these values, oldest first."""
        conditions = [(f"{store.field(name)} = ?", value) for name, value in equal.items()]
        return store.select(self.connection, kind, conditions, oldest=True)

    def save(self, document: Document) -> None:
        """Save an object that was changed."""
        store.update(self.connection, document)

    def change(self, document: Document, event: str, account: str | None = None, **fields: Any) -> None:
        """Set fields and emit an event with their previous values; does nothing if none of them changes."""
        before = {name: document.get(name) for name, value in fields.items() if document.get(name) != value}
        if before:
            document |= fields
            self.save(document)
            self.emit(event, document, before, account)

    def bank_redirect(self, document: Document, return_url: str | None) -> Document:
        """Return the `next_action` that sends the customer to their bank, for a PaymentIntent or a SetupIntent."""
        secret = urlencode({"secret": document["client_secret"]})
        url = f"{self.url}/authenticate/{document['id']}?{secret}"
        return {"type": "redirect_to_url", "redirect_to_url": {"url": url, "return_url": return_url}}

    def emit(
        self, event: str, document: Document, previous: Document | None = None, account: str | None = None
    ) -> None:
        """Emit an event with the object as it is now, to be delivered once this transaction has ended."""
        data: Document = {"object": objects.shown(document)}
        if previous is not None:
            data["previous_attributes"] = objects.shown(previous)
        fields: Document = {
            "api_version": api_version,
            "data": data,
            "pending_webhooks": int(self.notifies),
            "request": {"id": self.request, "idempotency_key": self.key},
            "type": event,
        } | ({"account": account} if account else {})
        document = self.create("event", **fields)
        if self.notifies:
            webhooks.queue(self.connection, document)


@dataclass
class Call:
    """A request to the API with valid parameters. `account` is the `Stripe-Account` header."""

    books: Books
    params: Parameters
    names: dict[str, str]
    path: str
    account: str = ""

    def merged_metadata(self, document: Document) -> dict[str, str]:
        """Return the object's metadata with the given one merged in; empty values remove keys, "" removes all."""
        given = self.params.get("metadata")
        if given == "":
            return {}
        merged = (document.get("metadata") or {}) | (given or {})
        return {name: value for name, value in merged.items() if value != ""}


Handler = Callable[[Call], Document]


def retrieve(kind: str) -> Handler:
    """Return a handler that shows one object."""
    return lambda call: call.books.get(kind, call.names["id"], deleted=True)


def lists(kind: str, *filters: str) -> Handler:
    """Return a handler that lists a kind, newest first, filtered by `created` and by the fields named."""

    def handler(call: Call) -> Document:
        conditions = [(f"{store.field(name)} = ?", call.params.get(name)) for name in filters if name in call.params]
        return listed(call, kind, conditions)

    return handler


def listed(call: Call, kind: str, conditions: list[tuple[str, Any]]) -> Document:
    """Return a page of a list. Raises Invalid for a limit outside 1…100 and NotFound for an unknown cursor."""
    limit = call.params.get("limit", PAGE)
    if not 1 <= limit <= MAX_PAGE:
        message = f"This value must be between 1 and {MAX_PAGE} (it currently is '{limit}')."
        raise Invalid(message, stored=False, code="parameter_invalid_integer", param="limit")
    created = call.params.get("created")
    bounds = created.plain() if isinstance(created, Parameters) else {"eq": created} if created is not None else {}
    signs = {"gt": ">", "gte": ">=", "lt": "<", "lte": "<=", "eq": "="}
    conditions = conditions + [(f"{store.field('created')} {signs[each]} ?", value) for each, value in bounds.items()]
    oldest = "ending_before" in call.params
    for name, sign in (("starting_after", "<"), ("ending_before", ">")):
        if name in call.params:
            call.books.get(kind, call.params.get(name), name)
            conditions.append((f"position {sign} (SELECT position FROM objects WHERE id = ?)", call.params.get(name)))
    found = store.select(call.books.connection, kind, conditions, limit=limit + 1, oldest=oldest)
    shown = found[:limit]
    return objects.page(call.path, shown[::-1] if oldest else shown, len(found) > limit)


def address(params: Parameters, name: str) -> str | None:
    """Return a parameter that browsers are sent to. Raises Invalid unless it is an http or https address."""
    value: str | None = params.get(name)
    if value is not None and not URL.fullmatch(value):
        raise Invalid("Not a valid URL", stored=False, code="url_invalid", param=name)
    return value


def text(value: str | None) -> str | None:
    """Return a parameter's text, or None for "", which unsets it."""
    return value or None
