"""Jobs as OpenAI's clients are told of them: when they have ended, and piece by piece."""

from __future__ import annotations

import base64
import time
from collections import Counter
from typing import Any
from uuid import UUID

from django.http import HttpRequest
from rest_framework.renderers import JSONRenderer

from billing.prices.pricing import prompt_length
from inference import pictures
from inference.card import ModelCard
from inference.request import TILE
from marketplace.api.addresses import absolute
from marketplace.api.images.schemas import (
    CompletedEvent,
    ImagesBody,
    MadeBody,
    PartialEvent,
    TokenDetails,
    UsageBody,
    Wish,
)
from marketplace.api.later import Answer
from marketplace.api.problems import ErrorBody, ErrorDetail, Problem
from marketplace.jobs import storage
from marketplace.jobs.models import Image, Job, Status
from marketplace.jobs.news import Preview
from marketplace.jobs.states import State

GIVEN = ("size", "quality", "usage")
NEVER_AGAIN = {"x-should-retry": "false"}
"""For clients that would send a request again which is answered as before."""


def answer(job_id: UUID, wish: Wish, card: ModelCard, request: HttpRequest) -> Answer:
    """Return the pictures of a job, why there are none, or that they are still being made."""
    job = Job.objects.get(id=job_id)
    place = {"Location": f"/v1/jobs/{job.id}"}
    if problem := _problem_of(job):
        detail = ErrorDetail.show(problem, request_id=getattr(request, "id", None))
        return Answer(problem.status, ErrorBody.show(error=detail), place | problem.headers)
    images = list(Image.objects.filter(job_id=job.id))
    data = [_handed_over(image, wish, request) for image in images]
    return Answer(200, ImagesBody.show(job, data=data, **_terms(job, wish, card, images[0])), place)


class Stream:
    """What a client that wants events is told of its job."""

    def __init__(self, job: Job, wish: Wish, card: ModelCard, request: HttpRequest) -> None:
        self.job, self.wish, self.card, self.request = job, wish, card, request
        self._shown: Counter[int] = Counter()
        self._partial = 0

    def write(self, news: State | Preview) -> bytes:
        """Return a preview as a partial image, if it is due: they are spread evenly over a picture's steps."""
        if not isinstance(news, Preview) or self._shown[news.index] >= self.wish.partial_images:
            return b""
        due = (self._shown[news.index] + 1) * self.job.quote["steps"] / (self.wish.partial_images + 1)
        if news.step < due:
            return b""
        self._shown[news.index] += 1
        self._partial += 1
        return _event(
            PartialEvent.show(
                self.job,
                type=f"{self.wish.event}.partial_image",
                b64_json=news.jpeg,
                partial_image_index=self._partial - 1,
                created_at=int(time.time()),
                size=f"{self.job.order['width']}x{self.job.order['height']}",
                quality=self.wish.quality,
            )
        )

    def end(self) -> bytes:
        """Return the finished pictures, an event each, or the error."""
        job = Job.objects.get(id=self.job.id)
        if problem := _problem_of(job):
            detail = ErrorDetail.show(problem, request_id=getattr(self.request, "id", None))
            return _event(ErrorBody.show(error=detail))
        return b"".join(self._completed(job, image) for image in Image.objects.filter(job_id=job.id))

    def _completed(self, job: Job, image: Image) -> bytes:
        return _event(
            CompletedEvent.show(
                job,
                type=f"{self.wish.event}.completed",
                b64_json=_encoded(image),
                created_at=int(time.time()),
                seed=image.seed,
                **_terms(job, self.wish, self.card, image),
            )
        )


def _event(said: dict[str, Any]) -> bytes:
    """Return an event; what its data say is an error or has a `type`, by which clients of OpenAI know it."""
    name = f"event: {said['type']}\n" if "type" in said else ""
    return name.encode() + b"data: %b\n\n" % JSONRenderer().render(said)


def _problem_of(job: Job) -> Problem | None:
    """Return why a job has no pictures to hand over; None if it has."""
    if job.forgotten_at is not None:
        message = "The job was forgotten, and its pictures with it."
        return Problem(409, "conflict", "forgotten", message, headers=NEVER_AGAIN)
    if job.status == Status.SUCCEEDED:
        return None
    if not job.is_final:
        message = "The pictures are still being made: get the job, or send this again as a retry, which buys nothing."
        return Problem(503, "server", "in_progress", message, headers={"Retry-After": "2"})
    if job.status == Status.CANCELED:
        return Problem(409, "conflict", "canceled", "The job was canceled.", headers=NEVER_AGAIN)
    if job.error_code == "invalid_request":
        return Problem(422, "invalid_request", "invalid_value", job.error_message)
    return Problem(500, "server", job.error_code, f"{job.error_message} Nothing was charged.", headers=NEVER_AGAIN)


def _terms(job: Job, wish: Wish, card: ModelCard, image: Image) -> dict[str, Any]:
    """Return what `Finished.show` is given."""
    size = f"{image.width}x{image.height}"
    return dict(zip(GIVEN, (size, wish.quality, _usage(job, card)), strict=True))


def _usage(job: Job, card: ModelCard) -> dict[str, Any]:
    """Count image tokens of 16 by 16 pixels, and the prompt's characters as they are priced."""
    order = job.order
    painted = order["width"] * order["height"]
    sizes = [(each["width"], each["height"]) for each in order.get("images", ())]
    conditions = pictures.condition_sizes(job.operation, painted, sizes, card)
    seen = sum(width * height for width, height in conditions) // TILE**2
    text, made = prompt_length(order["prompt"]), job.n * painted // TILE**2
    return UsageBody.show(
        input_tokens=text + seen,
        input_tokens_details=TokenDetails.show(text_tokens=text, image_tokens=seen),
        output_tokens=made,
        total_tokens=text + seen + made,
    )


def _handed_over(image: Image, wish: Wish, request: HttpRequest) -> dict[str, Any]:
    if wish.in_urls:
        return MadeBody.show(image, b64_json=None, url=absolute(request, storage.signed_path(image)[0]))
    return MadeBody.show(image, b64_json=_encoded(image), url=None)


def _encoded(image: Image) -> str:
    with storage.open_image(image) as stored:
        return base64.b64encode(stored.read()).decode()
