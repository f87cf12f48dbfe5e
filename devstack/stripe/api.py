"""Handles one request to the API: checks the key, replays a stored answer or runs the request, and formats the result.

An idempotency key's answer is stored for 24 hours, in the transaction that it reports: a request that died is not
remembered, one that was answered is.
"""

import base64
import binascii
import contextlib
import json
import re
import sqlite3
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from stripe import api_version

from devstack.stripe import encoding, faults, objects, parameters, routes, store
from devstack.stripe.books import Books, Call
from devstack.stripe.errors import ApiError, Document, Invalid, Refused
from devstack.stripe.faults import Fault
from devstack.stripe.routes import Route
from devstack.stripe.store import Store

KEY_SECONDS = 24 * 3600
MAX_KEY = 255
VERSION = re.compile(r"\d{4}-\d{2}-\d{2}(\.\w+)?(;.*)?")
NO_RETRY = {"Stripe-Should-Retry": "false"}
FAILURE = {"error": {"message": "An unknown error occurred", "type": "api_error"}}


@dataclass(frozen=True)
class Request:
    """A request as it arrived; the names in `headers` are in lower case."""

    method: str
    path: str
    query: str
    body: str
    headers: dict[str, str]
    id: str


@dataclass(frozen=True)
class Answer:
    """An HTTP answer; with `silence`, the connection is closed after so many seconds without one."""

    status: int
    body: str
    headers: dict[str, str] = field(default_factory=dict)
    silence: float | None = None


@dataclass
class Api:
    """The API. `url` is where browsers reach the hosted pages; `key` the only secret key, None for any `sk_test_`."""

    store: Store
    url: str
    notifies: bool
    key: str | None = None
    stopping: threading.Event = field(default_factory=threading.Event)
    _in_flight: set[str] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def answer(self, request: Request) -> Answer:
        """Answer a request; never raises for what a client sends."""
        common = {"Request-Id": request.id, "Stripe-Version": request.headers.get("stripe-version", api_version)}
        key = request.headers.get("idempotency-key", "") if request.method == "POST" else ""
        if key:
            common["Idempotency-Key"] = key
        try:
            account = self._authenticate(request, key)
            if fault := self._take_fault(faults.BEFORE, request):
                return _fault_answer(fault, common)
            with self._exclusive(key):
                if fault := self._take_fault(faults.DURING, request):
                    self.stopping.wait(fault.duration)
                return self._answer_once(request, f"{account} {key}" if key else "", common)
        except ApiError as error:
            return Answer(
                error.status,
                _json(error.document()),
                common | ({"Stripe-Should-Retry": "true"} if error.status == 409 else {}),
            )

    @contextlib.contextmanager
    def books(self, request: str | None = None, key: str | None = None) -> Iterator[Books]:
        """Open a transaction, for the hosted pages and control calls as well."""
        with self.store.transaction() as connection:
            yield Books(connection, self.url, request, key or None, self.notifies)

    def _authenticate(self, request: Request, key: str) -> str:
        secret = _secret(request.headers.get("authorization", ""))
        if not secret.startswith(("sk_test_", "rk_test_")) or (self.key and secret != self.key):
            raise Refused(
                401, f"Invalid API Key provided: {secret[:8]}{'*' * 8}{secret[-4:] if len(secret) > 20 else ''}"
            )
        if len(key) > MAX_KEY:
            raise Invalid(f"Idempotency keys can have at most {MAX_KEY} characters.", stored=False)
        version = request.headers.get("stripe-version", api_version)
        if not VERSION.fullmatch(version):
            raise Invalid(f"Invalid Stripe API version: {version[:100]}", stored=False)
        return secret

    def _take_fault(self, kinds: tuple[str, ...], request: Request) -> Fault | None:
        with self.store.transaction() as connection:
            return faults.take(connection, kinds, f"{request.method} {request.path}")

    @contextlib.contextmanager
    def _exclusive(self, key: str) -> Iterator[None]:
        with self._lock:
            if key in self._in_flight:
                message = (
                    "There is currently another in-progress request using this Idempotent Key (that probably means you "
                    f"submitted twice, and the other request is still going through): {key}. Please try again later."
                )
                raise Refused(409, message, kind="idempotency_error", code="idempotency_key_in_use")
            if key:
                self._in_flight.add(key)
        try:
            yield
        finally:
            self._in_flight.discard(key)

    def _answer_once(self, request: Request, key: str, common: dict[str, str]) -> Answer:
        with self.books(request.id, request.headers.get("idempotency-key") if key else None) as books:
            connection = books.connection
            if key and (known := _stored_answer(connection, key, request, books.now)):
                headers = common | {"Idempotent-Replayed": "true", "Original-Request": known["id"]}
                return Answer(known["status"], known["body"], headers | NO_RETRY)
            status, body, stored = _execute(books, request)
            fault = faults.take(connection, faults.AFTER, f"{request.method} {request.path}") if stored else None
            if fault and fault.kind == "error_after":
                status, body = 500, _json(FAILURE)
            if key and stored:
                row = (key, json.dumps([request.path, request.body, request.id]), status, body, books.now)
                connection.execute("INSERT OR REPLACE INTO answers VALUES (?, ?, ?, ?, ?)", row)
        headers = common | ({"Original-Request": request.id} if key else {}) | NO_RETRY
        silent = fault is not None and fault.kind in ("timeout_after", "drop_after")
        return Answer(status, body, headers, fault.duration if fault and silent else None)


def _execute(books: Books, request: Request) -> tuple[int, str, bool]:
    """Return status, body, and whether execution began; a refused request's changes are undone."""
    books.connection.execute("SAVEPOINT request")
    try:
        document = _run(books, request)
    except ApiError as error:
        if not error.kept:
            books.connection.execute("ROLLBACK TO request")
        return error.status, _json(error.document()), error.stored
    return 200, _json(document), True


def _run(books: Books, request: Request) -> Document:
    found = routes.find(request.method, request.path)
    if not found:
        message = (
            f"Unrecognized request URL ({request.method}: {request.path[:200]}). Please see https://stripe.com/docs"
        )
        raise Refused(404, f"{message} or we can help at https://support.stripe.com/.")
    route, names = found
    if request.path.startswith("/v2/"):
        raw = encoding.decode(request.query) | encoding.decode_json(request.body)
    else:
        raw = encoding.decode("&".join(filter(None, (request.query, request.body))))
    params = parameters.check(raw, route.params)
    paths = objects.expand_paths(params.get("expand") or [])
    call = Call(books, params, names, request.path, _account(request, route))
    document = route.handler(call)
    if unread := list(params.unread()):
        message = f"This double of Stripe does not support {unread[0]}, though Stripe does."
        raise Invalid(message, stored=False, code="parameter_not_in_double", param=unread[0])
    return _expanded(books, document, paths)


def _account(request: Request, route: Route) -> str:
    account = request.headers.get("stripe-account", "")
    if account and route.path != "/v1/balance":
        raise Invalid("This double of Stripe supports `Stripe-Account` for the balance only.", stored=False)
    return account


def _expanded(books: Books, document: Document, paths: dict[str, Any]) -> Document:
    if document.get("object") == "list":
        below = paths.pop("data", {})
        document = document | {"data": [_expanded(books, each, dict(below)) for each in document["data"]]}
    shown = {name: _shown(value) for name, value in objects.shown(document).items()}
    for name, below in paths.items():
        shown[name] = _expand(books, document, name, below)
    return shown


def _shown(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _shown(each) for name, each in objects.shown(value).items()}
    return [_shown(each) for each in value] if isinstance(value, list) else value


def _expand(books: Books, document: Document, name: str, below: dict[str, Any]) -> Any:
    kind, value = document.get("object", ""), document.get(name)
    if (kind, name) == ("checkout.session", "line_items"):
        return objects.page(f"/v1/checkout/sessions/{document['id']}/line_items", document["_items"])
    if (kind, name) == ("charge", "refunds"):
        refunds = books.find("refund", charge=document["id"])[::-1]
        return objects.page(f"/v1/charges/{document['id']}/refunds", refunds)
    if isinstance(value, dict) and isinstance(value.get("object"), str):
        return _expanded(books, value, below)
    if kind not in objects.KINDS or not objects.expandable(kind, name):
        raise Invalid(f"This property cannot be expanded ({name[:100]}).", stored=False, param="expand")
    found = store.read(books.connection, value) if isinstance(value, str) else None
    return _expanded(books, found, below) if found else value


def _stored_answer(connection: sqlite3.Connection, key: str, request: Request, now: int) -> Document | None:
    row = connection.execute("SELECT * FROM answers WHERE key = ? AND created > ?", (key, now - KEY_SECONDS)).fetchone()
    if not row:
        return None
    path, body, first = json.loads(row["request"])
    name = key.partition(" ")[2]
    advice = f"Try using a key other than '{name}' if you meant to execute a different request."
    if path != request.path:
        what = f"can only be used for the same endpoint they were first used for ('{request.path}' vs '{path}'). "
        raise Refused(400, f"Keys for idempotent requests {what}{advice}", kind="idempotency_error")
    decode = encoding.decode_json if path.startswith("/v2/") else encoding.decode
    if decode(body) != decode(request.body):
        what = "can only be used with the same parameters they were first used with. "
        raise Refused(400, f"Keys for idempotent requests {what}{advice}", kind="idempotency_error")
    return {"status": row["status"], "body": row["body"], "id": first}


def _fault_answer(fault: Fault, headers: dict[str, str]) -> Answer:
    if fault.kind == "rate_limit":
        message = "Request rate limit exceeded. You can learn more about rate limits here https://stripe.com/docs/rate-limits."
        body = {"error": {"code": "rate_limit", "message": message, "type": "invalid_request_error"}}
        return Answer(429, _json(body), headers | {"Stripe-Rate-Limited-Reason": "global-rate"})
    silence = 0.0 if fault.kind == "drop" else None
    return Answer(500, _json(FAILURE), headers | {"Stripe-Should-Retry": "true"}, silence)


def _secret(authorization: str) -> str:
    scheme, _, value = authorization.partition(" ")
    if scheme.lower() == "basic":
        with contextlib.suppress(binascii.Error, UnicodeDecodeError):
            return base64.b64decode(value.strip(), validate=True).decode().partition(":")[0]
    if scheme.lower() != "bearer" or not value.strip():
        raise Refused(
            401,
            "You did not provide an API key. You need to provide your API key in the Authorization header, using "
            "Bearer auth (e.g. 'Authorization: Bearer YOUR_SECRET_KEY').",
        )
    return value.strip()


def _json(document: Document) -> str:
    return json.dumps(document, indent=2)
