"""`manage.py create_customer EMAIL --grant TOKENS`: create an account with Tokens and an API key."""

from __future__ import annotations

import argparse
from typing import Any
from uuid import uuid4

from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.core.validators import validate_email

from billing import amounts
from billing.tokens import lots, wallets
from marketplace.accounts import customers, keys
from marketplace.audit import trail


def tokens(text: str) -> int:
    try:
        return amounts.parse_tokens(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


class Command(BaseCommand):
    help = "Create a customer, or find one by e-mail address, and issue an API key. The last line is the new key."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("email", metavar="EMAIL")
        parser.add_argument(
            "--grant", metavar="TOKENS", type=tokens, default=0, help="Tokens to grant, e.g. 100 or 0.5"
        )
        parser.add_argument("--key-name", default="first key", help="name of the API key")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            validate_email(options["email"].strip())
        except ValidationError as error:
            raise CommandError(f"not a valid e-mail address: {options['email']}") from error
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
