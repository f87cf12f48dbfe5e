"""Customers that speak HTTP, and the proof that the books are right. Imports wait: this is read before Django."""

import io
import json
from dataclasses import dataclass, field
from functools import cache
from typing import Any


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

    def patch(self, path: str, body: Any) -> Any:
        return self._http().patch(path, json.dumps(body), content_type="application/json", headers=self._headers({}))

    def put(self, path: str, body: Any) -> Any:
        return self._http().put(path, json.dumps(body), content_type="application/json", headers=self._headers({}))

    def _http(self) -> Any:
        from django.test import Client

        client = Client(raise_request_exception=False)
        client.handler = _handler()
        return client

    def _headers(self, more: dict[str, str]) -> dict[str, str]:
        given = {"Authorization": f"Bearer {self.key}", **self.headers, **more}
        return {name.replace("_", "-"): value for name, value in given.items()}

    @property
    def balance(self) -> tuple[int, int]:
        """Milli-Tokens available and held."""
        from billing.tokens import wallets

        found = wallets.balance(self.account.id)
        return found.available, found.held


@cache
def _handler() -> Any:
    """What all customers' requests go through: to load the middleware takes longer than most requests."""
    from django.test.client import ClientHandler

    return ClientHandler(enforce_csrf_checks=False)


def customer(name: str, tokens: int) -> Customer:
    from billing.tokens import wallets
    from marketplace.accounts import customers, keys

    account = customers.create(f"{name}@example.com")
    if tokens:
        wallets.grant(account.id, tokens * 1000, f"start of {name}")
    row, text = keys.issue(account.id, "first key")
    return Customer(account, text, row.id)


def restrict(customer: Customer, **limits: int) -> None:
    """Give a customer a tier of their own, which is the standard one but for these limits."""
    from marketplace.accounts import tiers
    from marketplace.accounts.models import STANDARD, Account, Tier

    tier = Tier.objects.get(id=STANDARD)
    for name, value in limits.items():
        setattr(tier, name, value)
    tier.pk, tier.name = None, f"of {customer.account.id}"
    tier.save()
    Account.objects.filter(id=customer.account.id).update(tier=tier)
    tiers.forget()


def check_ledger() -> str:
    """The command's last line, or its complaint."""
    from django.core.management import CommandError
    from django.db import connection, transaction

    from billing.tokens import proof
    from marketplace.maintenance import agreement

    if connection.in_atomic_block:  # the command wants a transaction of its own
        found = [*proof.check(), *agreement.check()]
        return "\n".join(found) if found else "ledger ok"
    from django.core.management import call_command

    said = io.StringIO()
    try:
        call_command("check_ledger", stdout=said)
    except CommandError as error:
        return str(error)
    assert not transaction.get_connection().in_atomic_block
    return said.getvalue().splitlines()[-1]
