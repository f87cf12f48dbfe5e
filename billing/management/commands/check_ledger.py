"""`manage.py check_ledger`: proves every ledger invariant, or names each violation and exits with 1."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError

from billing import ledger
from billing.models import Hold, Transfer, Wallet


class Command(BaseCommand):
    help = "Proves every invariant of the ledger; the last line begins with 'ledger ok' where it is right."

    def handle(self, *args: Any, **options: Any) -> None:
        violations = ledger.check()
        if violations:
            raise CommandError("\n".join([*violations, f"ledger violated: {len(violations)}"]))
        counts = ((Wallet, "wallets"), (Transfer, "transfers"), (Hold, "holds"))
        figures = ", ".join(f"{model._default_manager.count()} {name}" for model, name in counts)
        self.stdout.write(f"ledger ok: {figures}")
