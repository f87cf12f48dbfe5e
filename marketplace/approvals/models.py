"""The table of approval requests: what operators asked for, and who decided.

Behaviour belongs in `requests`, the meaning of the kinds in `acts`. What constraints cannot express (terms that never
change, statuses that never go back) is enforced by a trigger in the migration.
"""

from __future__ import annotations

from django.conf import settings
from django.db import models
from django.db.models import F, Q
from django.utils import timezone

from marketplace.identifiers import uuid7


class Request(models.Model):
    """An act that somebody asked for: `arguments` are those of its kind, `size` counts towards the person's limit.

    A request is *approved* while its last part, outside our database, is still to be done.
    """

    class Status(models.TextChoices):
        PENDING = "pending"
        APPROVED = "approved"
        EXECUTED = "executed"
        FAILED = "failed"
        REJECTED = "rejected"
        EXPIRED = "expired"

    id = models.UUIDField(primary_key=True, default=uuid7)
    kind = models.TextField()
    arguments = models.JSONField()
    size = models.BigIntegerField(default=0)
    reason = models.TextField()
    needs_approval = models.BooleanField()
    asked_by = models.ForeignKey(settings.AUTH_USER_MODEL, models.PROTECT, related_name="asked_requests")
    asked_at = models.DateTimeField(default=timezone.now)
    expires_at = models.DateTimeField()
    status = models.TextField(choices=Status, default=Status.PENDING)
    decided_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.PROTECT, null=True, related_name="decided_requests", db_index=False
    )
    decided_at = models.DateTimeField(null=True)
    note = models.TextField(default="")
    outcome = models.TextField(default="")
    ended_at = models.DateTimeField(null=True)

    class Meta:
        default_permissions = ("view",)
        permissions = (
            ("ask_grant", "Can grant Tokens"),
            ("ask_refund", "Can refund jobs and top-ups"),
            ("ask_prices", "Can change prices and packs"),
            ("ask_funding", "Can fund the marketing account"),
            ("decide_request", "Can approve and reject what others ask for"),
        )
        indexes = [
            models.Index("expires_at", condition=Q(status="pending"), name="request_pending"),
            models.Index("decided_at", condition=Q(status="approved"), name="request_approved"),
            models.Index("status", "id", name="request_by_status"),
        ]
        constraints = [
            models.CheckConstraint(
                condition=Q(decided_by=None) | ~Q(decided_by=F("asked_by")), name="request_second_person"
            ),
            models.CheckConstraint(
                condition=Q(status__in=["pending", "expired"], decided_by=None)
                | Q(status="rejected", decided_by__isnull=False)
                | Q(status__in=["approved", "executed", "failed"], needs_approval=True, decided_by__isnull=False)
                | Q(status__in=["approved", "executed", "failed"], needs_approval=False, decided_by=None),
                name="request_approved_by_somebody",
            ),
            models.CheckConstraint(condition=Q(size__gte=0) & ~Q(reason=""), name="request_has_reason"),
            models.CheckConstraint(
                condition=Q(status__in=["pending", "approved"], ended_at=None)
                | (~Q(status__in=["pending", "approved"]) & Q(ended_at__isnull=False)),
                name="request_ended_has_time",
            ),
        ]

    def __str__(self) -> str:
        return f"request {self.id}"
