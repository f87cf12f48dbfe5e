"""`manage.py create_customer EMAIL --grant TOKENS`: create an account with Tokens and an API key."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any, TypeVar
from uuid import uuid4

from django.core.management.base import BaseCommand, CommandParser

from billing import amounts
from billing.tokens import lots, wallets
from marketplace import text
from marketplace.accounts import customers, keys
from marketplace.audit import trail

MAX_NAME = 100

Value = TypeVar("Value")


def told(read: Callable[[str], Value]) -> Callable[[str], Value]:
    """Return a type of argument that tells what is wrong in the words of `read`."""

    def argument(written: str) -> Value:
        try:
            return read(written)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return argument


def key_name(written: str) -> str:
    name = text.line(written)
    if len(name) > MAX_NAME or text.is_blank(name):
        raise ValueError(f"Must have 1 to {MAX_NAME} visible characters.")
    return name.strip()


class Command(BaseCommand):
    help = "Create a customer, or find one by e-mail address, and issue an API key. The last line is the new key."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("email", metavar="EMAIL", type=told(text.email))
        parser.add_argument(
            "--grant",
            metavar="TOKENS",
            type=told(amounts.parse_tokens),
            default=0,
            help="Tokens to grant, e.g. 100 or 0.5",
        )
        parser.add_argument("--key-name", type=told(key_name), default="first key", help="name of the API key")

    def handle(self, *args: Any, **options: Any) -> None:
        with trail.acting("command create_customer"):
            account = customers.create(options["email"])
            if options["grant"]:
                wallets.grant(account.id, options["grant"], key=f"grant:{uuid4()}", memo="create_customer")
            _, secret = keys.issue(account.id, options["key_name"])
        balance = lots.position(account.id).balance
        self.stdout.write(f"account {account.id} ({account.name})")
        self.stdout.write(f"available {amounts.format_tokens(balance.available)} Tokens")
        self.stdout.write("API key, shown only once:")
        self.stdout.write(secret)
