"""`manage.py fund_marketing CURRENCY PRICE AMOUNT KEY`: money for makers who were paid with granted Tokens."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management import BaseCommand, CommandError
from django.db import IntegrityError

from billing.amounts import parse_money, show_money
from billing.errors import IdempotencyMismatch
from billing.models import Marketing
from billing.tokens import marketing


class Command(BaseCommand):
    help = (
        "Puts money into the marketing account, once for each key, and sets what it pays for 1,000 Tokens from now on."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("currency", help="e.g. eur")
        parser.add_argument("price", help="what 1,000 granted Tokens are worth to makers, e.g. 0.50")
        parser.add_argument("amount", help="e.g. 100.00; with --out, what is taken out of what was not used")
        parser.add_argument("key", help="any text; the same command with the same key does nothing more")
        parser.add_argument("--out", action="store_true")

    def handle(self, *_: Any, **options: Any) -> None:
        currency = options["currency"]
        try:
            price, amount = (parse_money(options[name], currency) for name in ("price", "amount"))
            marketing.fund(currency, price, -amount if options["out"] else amount, options["key"])
        except (ValueError, IdempotencyMismatch) as error:
            raise CommandError(str(error)) from error
        except IntegrityError as error:
            raise CommandError("less than that is left, or this is no currency") from error
        account = Marketing.objects.get(currency=currency)
        left = show_money(account.funded_minor - account.used_minor, currency)
        self.stdout.write(f"{left} are left; 1,000 Tokens are worth {show_money(account.price_minor, currency)}")
