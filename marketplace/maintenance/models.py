"""When each periodic task last finished. `periodic` writes it; the metrics, the console and `/readyz` read it."""

from __future__ import annotations

from django.db import models


class PeriodicTask(models.Model):
    """A task of the schedule in `marketplace.celery`, by name; `finished_at` is by the database's clock."""

    name = models.TextField(primary_key=True)
    finished_at = models.DateTimeField()

    def __str__(self) -> str:
        return self.name
