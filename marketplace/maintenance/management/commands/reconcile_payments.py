"""`manage.py reconcile_payments`: act on Stripe's events that never arrived, and print what was repaired."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError

from billing.errors import PaymentsRefused, PaymentsUnavailable
from billing.payments import reconcile, stripe


class Command(BaseCommand):
    help = "List Stripe's events since the last run and act on those that were lost. The last line says how many."

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            repaired, failed = reconcile.run(stripe.from_settings())
        except (PaymentsUnavailable, PaymentsRefused) as error:
            raise CommandError(f"Stripe did not answer the request: {error}") from error
        for line in repaired:
            self.stdout.write(line)
        if failed:
            raise CommandError(f"{failed} events failed; see the log for the reasons")
        self.stdout.write(f"payments reconciled: {len(repaired)} repaired")
