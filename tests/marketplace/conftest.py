"""The cast: alice has an account with 1,000 Tokens and a key, bob one with none, and both speak HTTP.

Imports wait inside the fixtures: this file is read before Django is set up.
"""

import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from flushing import flush_keeps_opening_rows  # noqa: F401


@dataclass
class Customer:
    """An account and its HTTP client. Answers are Django's test responses, bodies by `.json()`."""

    account: Any
    key: str
    key_id: Any
    headers: dict[str, str] = field(default_factory=dict)

    def get(self, path: str, **headers: str) -> Any:
        return self._http().get(path, headers=self._headers(headers))

    def delete(self, path: str) -> Any:
        return self._http().delete(path, headers=self._headers({}))

    def post(self, path: str, body: Any = None, **headers: str) -> Any:
        data = body if isinstance(body, bytes) else json.dumps(body if body is not None else {}).encode()
        kind = headers.pop("Content_Type", "application/json")
        return self._http().post(path, data, content_type=kind, headers=self._headers(headers))

    def _http(self) -> Any:
        from django.test import Client

        return Client(raise_request_exception=False)

    def _headers(self, more: dict[str, str]) -> dict[str, str]:
        given = {"Authorization": f"Bearer {self.key}", **self.headers, **more}
        return {name.replace("_", "-"): value for name, value in given.items()}

    @property
    def balance(self) -> tuple[int, int]:
        """Milli-Tokens available and held."""
        from billing import wallets

        found = wallets.balance(self.account.id)
        return found.available, found.held


def customer(name: str, tokens: int) -> Customer:
    from billing import wallets
    from marketplace.accounts import customers, keys

    account = customers.create(f"{name}@example.com")
    if tokens:
        wallets.grant(account.id, tokens * 1000, f"start of {name}")
    row, text = keys.issue(account.id, "first key")
    return Customer(account, text, row.id)


@pytest.fixture
def alice(request: pytest.FixtureRequest) -> Customer:
    _database(request)
    return customer("alice", 1000)


@pytest.fixture
def bob(request: pytest.FixtureRequest) -> Customer:
    _database(request)
    return customer("bob", 0)


def _database(request: pytest.FixtureRequest) -> None:
    marker = request.node.get_closest_marker("django_db")
    lasting = marker is not None and marker.kwargs.get("transaction")
    request.getfixturevalue("transactional_db" if lasting else "db")


@pytest.fixture
def order() -> Callable[..., Any]:
    """Makes job orders; 256×256, 20 steps and a floor-length prompt cost 100/16·0.4·0.5 = 1.25 Tokens a picture."""
    from marketplace.jobs.orders import JobOrder

    def make(**changes: Any) -> JobOrder:
        values = {
            "operation": "generate",
            "model": "kiln-house",
            "prompt": "a red circle",
            "negative_prompt": "",
            "width": 256,
            "height": 256,
            "steps": 20,
            "guidance_scale": 3.0,
            "seed": 7,
            "n": 1,
            "service_class": "standard",
            "output_format": "png",
        }
        return JobOrder(**{**values, **changes})

    return make


@pytest.fixture
def picture() -> Callable[..., Any]:
    """Stores a picture of a running job, as a worker does, and returns its lifecycle.Result."""
    from PIL import Image as Pixels

    from billing.pricing import ImageOutcome
    from marketplace.jobs import storage
    from marketplace.jobs.lifecycle import Result

    def make(job: Any, index: int = 0, steps: int = 20) -> Result:
        pixels = Pixels.new("RGB", (256, 256), (220, 40, 40))
        return Result(ImageOutcome(True, steps), storage.put(job, index, pixels))

    return make


@pytest.fixture
def ledger_is_right() -> Iterator[None]:
    """After the test the ledger and the jobs must tell one story."""
    yield
    assert check_ledger().startswith("ledger ok")


@pytest.fixture(autouse=True)
def fresh_prices() -> Iterator[None]:
    from billing import price_lists

    price_lists.forget()
    yield
    price_lists.forget()


def check_ledger() -> str:
    """The command's last line, or its complaint."""
    from django.core.management import CommandError
    from django.db import connection, transaction

    from billing import ledger
    from marketplace.jobs import settlement

    if connection.in_atomic_block:  # the command wants a transaction of its own
        found = [*ledger.check(), *settlement.check()]
        return "\n".join(found) if found else "ledger ok"
    from django.core.management import call_command

    said = io.StringIO()
    try:
        call_command("check_ledger", stdout=said)
    except CommandError as error:
        return str(error)
    assert not transaction.get_connection().in_atomic_block
    return said.getvalue().splitlines()[-1]
