"""`manage.py link_identity EMAIL SUBJECT`: tokens of the identity provider with this subject speak for a customer."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from marketplace.accounts import identities
from marketplace.accounts.models import Account
from marketplace.audit import trail


class Command(BaseCommand):
    help = "Let the identity provider's tokens with a subject speak for a customer's account; --remove undoes it."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("email", metavar="EMAIL")
        parser.add_argument("subject", metavar="SUBJECT", help="what the tokens say in the claim of KILN_JWT_CLAIM")
        parser.add_argument("--remove", action="store_true")

    def handle(self, *args: Any, **options: Any) -> None:
        if not settings.JWT_ISSUER:
            raise CommandError("KILN_JWT_ISSUER is not set")
        subject = options["subject"]
        if not 0 < len(subject) <= identities.MAX_NAME:
            raise CommandError(f"A subject must have 1 to {identities.MAX_NAME} characters.")
        account = Account.objects.filter(owner__email=options["email"]).order_by("created_at").first()
        if account is None:
            raise CommandError(f"{options['email']} has no account")
        with trail.acting("command link_identity"):
            if options["remove"]:
                done = "unlinked" if identities.unlink(subject) else "was not linked"
            else:
                identities.link(account, subject)
                done = f"speaks for account {account.id} ({account.name})"
        self.stdout.write(f"{settings.JWT_ISSUER} {subject}: {done}")
