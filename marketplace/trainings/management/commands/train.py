"""`manage.py train`: trains adapters that customers ordered, one after another, until SIGTERM."""

from __future__ import annotations

import signal
import threading
from typing import Any

from django.core.management.base import BaseCommand

from marketplace.trainings.trainer import Trainer


class Command(BaseCommand):
    help = "Trains adapters that customers ordered, one after another; several may run, each on a device of its own."
    requires_system_checks = ()

    def handle(self, *args: Any, **options: Any) -> None:
        stopping = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stopping.set())
        Trainer(stopping.is_set).run()
