"""The audit's one table. The database itself numbers and chains its rows and refuses to change them.

Not for writing: triggers do that (the migration `chain`), and `trail` what no table shows.
"""

from __future__ import annotations

from django.db import models


class Record(models.Model):
    """Who did what to what. `hash` is the SHA-256 of the row, and of `previous`: the hash of the row before."""

    seq = models.BigIntegerField("number", primary_key=True)
    at = models.DateTimeField()
    actor = models.TextField()
    act = models.TextField()
    object = models.TextField()
    details = models.JSONField()
    previous = models.BinaryField(max_length=32)
    hash = models.BinaryField(max_length=32)

    class Meta:
        verbose_name = "audit record"
        indexes = [
            models.Index("object", "seq", name="record_by_object"),
            models.Index("actor", "seq", name="record_by_actor"),
            models.Index("act", "seq", name="record_by_act"),
        ]

    def __str__(self) -> str:
        return f"record {self.seq}"
