"""The audit's table. The database itself numbers and chains its rows, and refuses to change them.

Rows are not written through the model: triggers write them (see the migration `0001_chain`), and `trail` writes those
of acts that change no table.
"""

from __future__ import annotations

from django.db import models


class Record(models.Model):
    """Who did what to what. `hash` is the SHA-256 of the row including `previous`, the hash of the row before."""

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
