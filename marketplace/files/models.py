"""The table of files. `uploads` is its only writer."""

from __future__ import annotations

from django.contrib.postgres.functions import TransactionNow
from django.db import models

from marketplace.accounts.models import Account
from marketplace.identifiers import uuid7


class File(models.Model):
    """A picture that a customer sent. Its bytes are in the storage of files, under its account and id.

    Until they are, it is not `stored`, and counts against the quota all the same. Width and height are those of the
    picture when it stands upright.
    """

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    account = models.ForeignKey(Account, on_delete=models.PROTECT, db_index=False)
    name = models.CharField(max_length=200)
    media_type = models.CharField(max_length=20)
    sha256 = models.CharField(max_length=64)
    size = models.PositiveIntegerField(help_text="bytes")
    width = models.PositiveIntegerField()
    height = models.PositiveIntegerField()
    stored = models.BooleanField(default=False)
    inline = models.BooleanField(default=False, db_default=False, help_text="came with an order, not by itself")
    created_at = models.DateTimeField(db_default=TransactionNow())
    expires_at = models.DateTimeField()

    class Meta:
        indexes = [
            models.Index(fields=["account", "-id"], name="file_of_account"),
            models.Index(fields=["expires_at"], name="file_expiry"),
        ]

    def __str__(self) -> str:
        return f"{self.name} {self.id}"

    @property
    def path(self) -> str:
        return f"{self.account_id}/{self.id}"
