"""`manage.py reconcile_payments`: acts on Stripe's events that never arrived, and prints what it repaired."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError

from billing.errors import PaymentsRefused, PaymentsUnavailable
from billing.payments import reconcile, stripe


class Command(BaseCommand):
    help = "Lists Stripe's events since the last run and acts on those that were lost; the last line says how many."

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            repaired, failed = reconcile.run(stripe.from_settings())
        except (PaymentsUnavailable, PaymentsRefused) as error:
            raise CommandError(f"Stripe cannot be asked: {error}") from error
        for line in repaired:
            self.stdout.write(line)
        if failed:
            raise CommandError(f"{failed} events failed; the log says why")
        self.stdout.write(f"payments reconciled: {len(repaired)} repaired")
