"""`manage.py check_ledger`: prove every invariant of ledger and jobs, or name each violation and exit with 1."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import connection, transaction

from billing.models import Hold, Transfer, Wallet
from billing.tokens import proof
from marketplace.jobs.models import Job
from marketplace.maintenance import agreement


class Command(BaseCommand):
    help = "Prove that Tokens add up and that every job was paid for once. The last line is 'ledger ok: …'."

    def handle(self, *args: Any, **options: Any) -> None:
        with transaction.atomic():
            with connection.cursor() as cursor:
                cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
                cursor.execute("SET LOCAL enable_seqscan = on")  # it reads everything
            violations = [*proof.check(), *agreement.check()]
            counted = ((Wallet, "wallets"), (Transfer, "transfers"), (Hold, "holds"), (Job, "jobs"))
            figures = ", ".join(f"{model._default_manager.count()} {name}" for model, name in counted)
        if violations:
            raise CommandError("\n".join([*violations, f"ledger violated: {len(violations)}"]))
        self.stdout.write(f"ledger ok: {figures}")
