"""The bodies of jobs and quotes as they are shown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

from django.http import HttpRequest

from marketplace.api.addresses import absolute
from marketplace.api.bodies import Body, StoredBody
from marketplace.api.fields import (
    Array,
    Choice,
    Flag,
    Identifier,
    Moment,
    Number,
    Object,
    Text,
    Tokens,
    Whole,
)
from marketplace.jobs import storage
from marketplace.jobs.models import Image, Job, ServiceClass, Status


def receipt_pictures(job: Job) -> list[dict[str, Any]]:
    """Return what a job's receipt says about each picture; nothing while there is no receipt."""
    return job.receipt["images"] if job.receipt else []


def _hits(name: str, pictures: list[dict[str, Any]]) -> Iterator[Any]:
    """Return this value of each picture that came from a cache or began there."""
    return (each[name] for each in pictures if each.get("tier", "none") != "none")


class QuotedAdapterBody(StoredBody):
    id = Text(of='row["adapter"]')
    version = Whole()
    surcharge = Text(help_text="Of the version, by how it was trained, as a share of the price without adapters.")
    fee = Text(help_text="Of its maker; none for the maker and those it is shared with.")


class QuoteBody(StoredBody):
    total = Tokens()
    unit = Tokens(help_text="One picture.")
    n = Whole()
    price_list = Whole()
    factors = Object(help_text="Each factor of the formula; their product, rounded up, is `unit`.")
    adapters = QuotedAdapterBody(
        many=True,
        of=lambda quote: [QuotedAdapterBody.show(each) for each in quote.get("adapters", ())],
        help_text="What each adapter adds; the factor `adapters` is 1 and the sum of these.",
    )


class ImageBody(Body):
    url = Text(given=True)
    expires_at = Moment(given=True)
    sha256 = Text()
    width = Whole()
    height = Whole()
    media_type = Text()
    seed = Whole()


class ProgressBody(Body):
    step = Whole()
    steps = Whole()


class CostBody(Body):
    quoted = Tokens()
    held = Tokens()
    captured = Tokens()
    released = Tokens()


# the row is `receipt_pictures`
class CacheBody(Body):
    tier = Text(of=lambda pictures: next(_hits("tier", pictures), "none"), help_text="none, exact or latent")
    similarity = Number(
        of=lambda pictures: min(_hits("similarity", pictures), default=None),
        allow_null=True,
        help_text="Of the prompts; 1 is the same.",
    )
    steps_skipped = Whole(
        of=lambda pictures: sum(each["steps_skipped"] for each in pictures), help_text="Of all pictures together."
    )


class InputBody(StoredBody):
    file = Text(help_text="The id of a file; one that came with the order is removed when its last job has ended.")
    sha256 = Text()
    width = Whole(help_text="Of the picture as it stands upright.")
    height = Whole()


class UsedAdapterBody(StoredBody):
    id = Text()
    version = Whole()
    scale = Number()


class JobErrorBody(Body):
    code = Text(of="row.error_code")
    message = Text(of="row.error_message")


class MomentsBody(Body):
    created_at = Moment()
    started_at = Moment(allow_null=True)
    finished_at = Moment(allow_null=True)


class JobBody(Body):
    id = Identifier()
    status = Choice(choices=Status.choices)
    operation = Text()
    model = Text()
    service_class = Choice(choices=ServiceClass.choices)
    prompt = Text(
        of='row.order["prompt"] if row.forgotten_at is None else None',
        allow_null=True,
        help_text="Null once it is forgotten.",
    )
    negative_prompt = Text(of='row.order["negative_prompt"] if row.forgotten_at is None else None', allow_null=True)
    width = Whole(of='row.order["width"]')
    height = Whole(of='row.order["height"]')
    steps = Whole(of='row.order["steps"]')
    guidance_scale = Number(of='row.order["guidance_scale"]')
    seed = Whole()
    n = Whole()
    # missing in orders that are older than this field
    deterministic = Flag(of=lambda job: job.order.get("deterministic", False))
    output_format = Text(of='row.order["output_format"]')
    inputs = InputBody(
        many=True,
        of='(row.order.get("images", ()) if row.forgotten_at is None else ())',
        help_text="The pictures that it was ordered with.",
    )
    mask = InputBody(of='row.order.get("mask") if row.forgotten_at is None else None', allow_null=True)
    adapters = UsedAdapterBody(
        many=True,
        of=lambda job: [UsedAdapterBody.show(each) for each in job.order.get("adapters", ())],
        help_text="What it is drawn with, in the version that it was ordered in.",
    )
    strength = Number(of='row.order.get("strength")', allow_null=True)
    extend = Array(child=Whole(), of='row.order.get("extend")', allow_null=True)
    box = Array(child=Whole(), of='row.order.get("box")', allow_null=True)
    metadata = Object(child=Text())
    progress = ProgressBody(of="row")
    queue_position = Whole(
        given=True, allow_null=True, help_text="1 is next in its service class; null once it runs, and in lists."
    )
    images = ImageBody(many=True, given=True, help_text="Those delivered, also of a canceled job; none before it ends.")
    cost = CostBody(of="row")
    cancel_cost = Tokens(
        of=lambda job: None if job.is_final else job.cancel_cost,
        allow_null=True,
        help_text="What a cancel would cost, as of the worker's last report, a second ago at most: the pictures that "
        "are finished and the steps done of the others. Null once the job has ended.",
    )
    cancel_requested_at = Moment(allow_null=True)
    quote = QuoteBody()
    receipt = Object(allow_null=True, help_text="What was charged, picture by picture.")
    cache = CacheBody(of=receipt_pictures)
    timings = Object(of=lambda job: MomentsBody.show(job) | job.timings)
    error = JobErrorBody(of=lambda job: job if job.error_code else None, allow_null=True)
    forgotten_at = Moment(
        allow_null=True, help_text="Since then prompts, pictures, inputs and labels are gone; what it cost stays."
    )


class JobList(Body):
    data = JobBody(many=True, given=True)  # type: ignore[assignment]
    next_cursor = Text(given=True, allow_null=True)


def show(job: Job, images: Sequence[Image], request: HttpRequest | None, position: int | None = None) -> dict[str, Any]:
    """Return a job with its pictures, at addresses that the sender of the request can reach, if there is one."""
    return JobBody.show(job, queue_position=position, images=[_picture(image, request) for image in images])


def _picture(image: Image, request: HttpRequest | None) -> dict[str, Any]:
    path, expires = storage.signed_path(image)
    until = Moment.show(datetime.fromtimestamp(expires, UTC))
    return ImageBody.show(image, url=absolute(request, path), expires_at=until)
