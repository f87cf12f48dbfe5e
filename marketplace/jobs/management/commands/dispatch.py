"""`manage.py dispatch`: sends queued jobs to the workers' queues, until SIGTERM."""

from __future__ import annotations

import signal
import threading
from typing import Any

from django.core.management.base import BaseCommand

from marketplace.jobs import outbox


class Command(BaseCommand):
    help = "Sends queued jobs to the workers' queues; several may run at once."
    requires_system_checks = ()

    def handle(self, *args: Any, **options: Any) -> None:
        stopping = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stopping.set())
        outbox.run(stopping.is_set)
