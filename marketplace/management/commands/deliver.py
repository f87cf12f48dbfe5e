"""`manage.py deliver`: sends webhooks and e-mails that are due, until SIGTERM."""

from __future__ import annotations

import signal
import threading
from typing import Any

from django.core.management.base import BaseCommand

from marketplace.api.webhooks.schemas import shown_job
from marketplace.webhooks.deliverer import Deliverer


class Command(BaseCommand):
    help = "Sends webhooks and e-mails that are due; several may run at once."
    requires_system_checks = ()

    def handle(self, *args: Any, **options: Any) -> None:
        stopping = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stopping.set())
        Deliverer(shown_job).run(stopping.is_set)
