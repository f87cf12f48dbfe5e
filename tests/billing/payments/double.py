"""The double of Stripe in this process: the SDK's requests reach it by a call, and its events wait until they are sent.

Nothing sleeps and no port is opened, so that a story of a month takes milliseconds. The double itself is the one that
every other test speaks to over HTTP.
"""

import json
from collections.abc import Mapping
from itertools import count
from typing import Any
from urllib.parse import urlencode, urlsplit

import stripe

from devstack.stripe import control, hosted, objects
from devstack.stripe.api import Api, Request
from devstack.stripe.errors import ApiError
from devstack.stripe.hosted import Page
from devstack.stripe.store import Store
from devstack.stripe.webhooks import Endpoint

Document = dict[str, Any]

_numbers = count(1)


class Transport(stripe.HTTPClient):
    """What the SDK sends its requests with: a call instead of a connection. Silence is an error at once."""

    name = "in this process"

    def __init__(self, api: Api) -> None:
        super().__init__()
        self.api = api

    def request(
        self, method: str, url: str, headers: Mapping[str, str] | None, post_data: Any = None, **_: Any
    ) -> tuple[str, int, Mapping[str, str]]:
        parts, named = urlsplit(url), {name.lower(): value for name, value in (headers or {}).items()}
        request = Request(method.upper(), parts.path, parts.query, post_data or "", named, f"req_{next(_numbers)}")
        answer = self.api.answer(request)
        if answer.silence is not None:
            raise stripe.APIConnectionError("no answer")
        return answer.body, answer.status, answer.headers

    def close(self) -> None:
        """Nothing is open."""


class Double:
    """A Stripe with nothing in it, for one story."""

    def __init__(self) -> None:
        self.store = Store(None)
        self.api = Api(self.store, "http://stripe.example", notifies=False)
        self.api.stopping.set()  # a slow answer comes at once
        self.client = stripe.StripeClient("sk_test_story", http_client=Transport(self.api), max_network_retries=0)
        self._seen = 0
        self._read: dict[str, list[Document]] = {}
        self._changes = 0

    def close(self) -> None:
        self.store.close()

    def control(self, path: str, method: str = "POST", **given: Any) -> Any:
        """Do what the control call does; return None if the double refuses."""
        try:
            with self.api.books() as books:
                return control.run(books, Endpoint(None, ()), method, f"/_control/{path}", json.dumps(given))
        except ApiError:
            return None

    def visit(self, url: str, **form: str) -> Page | None:
        """Send a hosted page's form, and the bank's after it where the bank asks: `bank` is the answer."""
        answer = form.pop("bank", "yes")
        found = self._post(url, form)
        if found and found.status == 303 and "/authenticate/" in found.location:
            return self._post(found.location, {"answer": answer})
        return found

    def advance(self, seconds: float) -> None:
        self.control("advance", seconds=seconds)

    def heal(self) -> None:
        """No fault strikes any more."""
        self.control("faults", "DELETE")

    def news(self) -> list[Document]:
        """The events since the last call, oldest first, as a webhook would bring them."""
        rows = self._rows("event", self._seen)
        self._seen = rows[-1][0] if rows else self._seen
        return [objects.shown(event) for _, event in rows]

    def every(self, kind: str) -> list[Document]:
        """All objects of a kind, oldest first; read again only once something has changed."""
        with self.store.transaction() as connection:
            if connection.total_changes != self._changes:
                self._changes, self._read = connection.total_changes, {}
        if kind not in self._read:
            self._read[kind] = [document for _, document in self._rows(kind, 0)]
        return self._read[kind]

    def delete_customer(self, customer: str) -> None:
        self.client.v1.customers.delete(customer)

    def detach(self, card: str) -> None:
        self.client.v1.payment_methods.detach(card)

    def _post(self, url: str, form: dict[str, str]) -> Page | None:
        parts = urlsplit(url)
        with self.api.books() as books:
            return hosted.show(books, "POST", parts.path, parts.query, urlencode(form))

    def _rows(self, kind: str, after: int) -> list[tuple[int, Document]]:
        query = "SELECT position, body FROM objects WHERE kind = ? AND position > ? ORDER BY position"
        with self.store.transaction() as connection:
            return [(row["position"], json.loads(row["body"])) for row in connection.execute(query, (kind, after))]
