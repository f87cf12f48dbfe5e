"""The bodies of webhooks, their deliveries, and what an account wants to be told."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from marketplace.api.bodies import Body, StrictSerializer
from marketplace.api.fields import (
    HTTPS,
    Array,
    Choice,
    Flag,
    Identifier,
    Moment,
    Text,
    Tokens,
    Whole,
    webhook_address,
)
from marketplace.api.jobs import bodies as jobs
from marketplace.jobs.models import Image, Job
from marketplace.remote import MAX_URL
from marketplace.webhooks.models import MAILED, Delivery, Endpoint, EventType, Language


class WebhookChange(StrictSerializer):
    """What is left out of a change stays as it is."""

    url = Text(
        required=False, max_length=MAX_URL, pattern=HTTPS, help_text="https, at port 443, on the public internet."
    )
    types = Array(
        child=Choice(choices=EventType.values), required=False, min_length=1, max_length=20,
        help_text="The types of events to send there.",
    )  # fmt: skip
    description = Text(required=False, max_length=200, allow_blank=True)
    enabled = Flag(required=False, help_text="What waits to be sent is given up when it is disabled.")

    def validate_url(self, url: str) -> str:
        return webhook_address(url)

    def validate_types(self, types: list[str]) -> list[str]:
        return list(dict.fromkeys(types))


class WebhookOrder(StrictSerializer):
    url = Text(max_length=MAX_URL, pattern=HTTPS, help_text="https, at port 443, on the public internet.")
    types = Array(
        child=Choice(choices=EventType.values), min_length=1, max_length=20,
        help_text="The types of events to send there.",
    )  # fmt: skip
    description = Text(default="", max_length=200, allow_blank=True)

    validate_url = WebhookChange.validate_url
    validate_types = WebhookChange.validate_types


class WebhookBody(Body):
    id = Identifier()
    url = Text()
    types = Array(child=Text())
    description = Text()
    enabled = Flag()
    disabled_reason = Choice(
        choices=Endpoint.Reason.choices,
        of=lambda row: row.disabled_reason or None,
        allow_null=True,
        help_text="`gone`: it answered 410; `failing`: for days; `owner`: you did.",
    )
    failing_since = Moment(allow_null=True, help_text="Null once something was delivered.")
    paused_until = Moment(allow_null=True, help_text="Nothing is tried before this time.")
    previous_secret_until = Moment(of="row.previous_until", allow_null=True, help_text="It signs too until then.")
    created_at = Moment()


class NewWebhookBody(WebhookBody):
    secret = Text(given=True, help_text="To verify signatures with (Standard Webhooks); shown only once.")


class WebhookList(Body):
    data = WebhookBody(many=True, of="row")  # type: ignore[assignment]


class SecretBody(Body):
    secret = Text(given=True, help_text="Shown only once. The one before signs too for 24 hours.")


class DeliveryBody(Body):
    id = Identifier()
    event = Identifier(help_text="The `webhook-id` that is sent; the same each time that this event is sent.")
    type = Text()
    job = Identifier(allow_null=True)
    status = Choice(choices=Delivery.Status.choices)
    attempts = Whole()
    next_attempt_at = Moment(
        of=lambda row: row.next_at if row.status == Delivery.Status.WAITING else None,
        allow_null=True,
        help_text="While one is under way: when it counts as lost.",
    )
    answer_status = Whole(of="row.answered", allow_null=True, help_text="Of the last attempt; null if none came.")
    answer = Text(help_text="How it begins.")
    error = Text(of=lambda row: row.error or None, allow_null=True, help_text="Why there was no answer.")
    happened_at = Moment()
    created_at = Moment()
    finished_at = Moment(allow_null=True)


class DeliveryList(Body):
    data = DeliveryBody(many=True, of="row")  # type: ignore[assignment]
    next_cursor = Text(given=True, allow_null=True)


class NotificationsChange(StrictSerializer):
    """What is left out of a change stays as it is."""

    language = Choice(choices=Language.values, required=False, help_text="Of e-mails.")
    low_balance = Tokens(
        positive=True, required=False, allow_null=True,
        help_text="Tell when fewer Tokens are available; null for the threshold of automatic top-ups, if there is one.",
    )  # fmt: skip
    muted = Array(
        child=Choice(choices=[kind.value for kind in MAILED]), required=False, max_length=20,
        help_text="The types of events that are not to be sent by e-mail.",
    )  # fmt: skip

    validate_muted = WebhookChange.validate_types


class NotificationsBody(Body):
    language = Choice(choices=Language.choices)
    low_balance = Tokens(allow_null=True)
    muted = Array(child=Text())
    email = Text(of="row.account.owner.email", help_text="Where e-mails go.")


class GoneBody(Body):
    id = Identifier(given=True)


def shown_job(job_id: UUID) -> dict[str, Any]:
    """Return a job as its customer sees it, for those who are told that it has ended."""
    job = Job.objects.filter(id=job_id).first()
    if job is None:
        return GoneBody.show(id=str(job_id))
    return jobs.show(job, list(Image.objects.filter(job_id=job_id)), None)
