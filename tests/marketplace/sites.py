"""A working site beside the test: the real dispatcher, beat and Celery workers on the test's own database."""

import os
import signal
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from devstack import parts, processes
from marketplace.addresses import ROOT


class Site:
    """Starts and kills parts by name; several workers may run. Leases last 3 s, the sweeper comes each second."""

    def __init__(self, folder: Path, **settings: str) -> None:
        from django.conf import settings as django

        url = urlsplit(django.DATABASE_URL)
        name = django.DATABASES["default"]["NAME"]
        self.folder = folder
        self.environment = os.environ | {
            "DATABASE_URL": urlunsplit(url._replace(path=f"/{name}")),
            "KILN_LEASE_SECONDS": "3",
            "KILN_SWEEP_SECONDS": "1",
            "KILN_DRAIN_SECONDS": "1",
            "OMP_NUM_THREADS": "1",
            **settings,
        }
        self.environment.pop("PYTEST_CURRENT_TEST", None)
        self.children: dict[str, processes.Child] = {}

        self.ports = parts.Ports(*(processes.free_port() for _ in range(3)))

    def start(self, name: str, part: str | None = None) -> None:
        """Starts a part, by default the one of this name; `workers` of several names are the same part."""
        found = {item.name: item for item in parts.parts(self.folder, self.ports)}[part or name]
        command = [word.replace("worker@", f"{name}@") for word in found.command]
        log = self.folder / f"{name}.log"
        environment = {**self.environment, **found.settings}
        self.children[name] = processes.spawn(command, log, env=environment, cwd=ROOT)

    def warm(self, count: int = 1, seconds: float = 90) -> None:
        """Waits until so many live workers can take jobs."""
        from datetime import timedelta

        from django.utils import timezone

        from marketplace.jobs.models import Worker

        def ready() -> bool:
            self.check()
            pids = {str(child.pid) for child in self.children.values() if child.poll() is None}
            seen = Worker.objects.filter(warm=True, seen_at__gt=timezone.now() - timedelta(seconds=3))
            return len([name for name in seen.values_list("name", flat=True) if name.split("-")[-2] in pids]) >= count

        assert processes.wait_until(ready, seconds), self.logs()

    def kill(self, name: str, number: signal.Signals = signal.SIGKILL, seconds: float = 30) -> None:
        """Sends the signal and waits until the part has ended."""
        child = self.children.pop(name)
        child.send_signal(number)
        assert processes.wait_until(lambda: child.poll() is not None, seconds), self.logs()

    def check(self) -> None:
        """Every part that was not killed must be running."""
        for name, child in self.children.items():
            assert child.poll() is None, f"{name} ended\n{self.logs()}"

    def logs(self) -> str:
        return "\n".join(f"{log.stem}:\n{processes.tail(log, 30)}" for log in sorted(self.folder.glob("*.log")))

    def stop(self) -> None:
        for child in self.children.values():
            processes.stop(child, (signal.SIGTERM, 10.0))


def until_ended(site: Site, job_ids: list[Any], seconds: float) -> None:
    """Waits until each of the jobs has ended."""
    from marketplace.jobs.models import FINAL, Job

    def ended() -> bool:
        site.check()
        return not Job.objects.filter(id__in=job_ids).exclude(status__in=FINAL).exists()

    if not processes.wait_until(ended, seconds):
        left = Job.objects.filter(id__in=job_ids).exclude(status__in=FINAL)
        raise AssertionError(f"still open after {seconds:.0f} s: {list(left)}\n{site.logs()}")
