"""Jobs as OpenAI's clients are told of them: when they have ended, and piece by piece."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

from django.http import HttpRequest

from billing.amounts import format_tokens
from billing.prices.pricing import prompt_length
from inference import pictures
from inference.card import ModelCard
from inference.request import TILE
from marketplace.api.addresses import absolute
from marketplace.api.errors import Problem
from marketplace.api.images.schemas import Wish
from marketplace.jobs import storage
from marketplace.jobs.models import Image, Job, Status

NEVER_AGAIN = {"x-should-retry": "false"}
"""For clients that would send a request again which is answered as before."""


def problem_of(job: Job) -> Problem | None:
    """Return why an ended job has no pictures to hand over; None if it has."""
    if job.status == Status.SUCCEEDED:
        return None
    if job.status == Status.CANCELED:
        return Problem(409, "conflict", "canceled", "The job was canceled.", headers=NEVER_AGAIN)
    code, message = job.error_code or "internal", job.error_message or "The picture could not be made."
    if code == "invalid_request":
        return Problem(422, "invalid_request", code, message)
    return Problem(500, "server", code, f"{message} Nothing was charged.", headers=NEVER_AGAIN)


def show(job: Job, wish: Wish, card: ModelCard, request: HttpRequest) -> dict[str, Any]:
    """Return the answer for a job that has succeeded."""
    images = list(Image.objects.filter(job_id=job.id))
    return {
        "created": int(job.created_at.timestamp()),
        "data": [_handed_over(image, wish, request) | {"seed": image.seed} for image in images],
        "usage": usage(job, card),
        "id": str(job.id),
        "cost": format_tokens(job.captured),
    } | _terms(job, wish, images[0])


def completed(job: Job, wish: Wish, card: ModelCard) -> Iterator[dict[str, Any]]:
    """Return the last events of a job that has succeeded, one for each picture."""
    for image in Image.objects.filter(job_id=job.id):
        yield {
            "type": f"{wish.event}.completed",
            "b64_json": _encoded(image),
            "created_at": int(job.created_at.timestamp()),
            "usage": usage(job, card),
            "seed": image.seed,
            "id": str(job.id),
            "cost": format_tokens(job.captured),
        } | _terms(job, wish, image)


def partial(job: Job, wish: Wish, index: int, preview: str, kind: str) -> dict[str, Any]:
    """Return the event of a preview, base64 of a picture of this kind."""
    return {
        "type": f"{wish.event}.partial_image",
        "b64_json": preview,
        "partial_image_index": index,
        "created_at": int(job.created_at.timestamp()),
        "size": f"{job.order['width']}x{job.order['height']}",
        "quality": wish.quality,
        "background": "opaque",
        "output_format": kind,
    }


def usage(job: Job, card: ModelCard) -> dict[str, Any]:
    """Count image tokens of 16 by 16 pixels, and the prompt's characters as they are priced."""
    order = job.order
    painted = order["width"] * order["height"]
    sizes = [(each["width"], each["height"]) for each in order.get("images", ())]
    conditions = pictures.condition_sizes(job.operation, painted, sizes, card)
    seen = sum(width * height for width, height in conditions) // TILE**2
    text, made = prompt_length(order["prompt"]), job.n * painted // TILE**2
    return {
        "input_tokens": text + seen,
        "input_tokens_details": {"text_tokens": text, "image_tokens": seen},
        "output_tokens": made,
        "total_tokens": text + seen + made,
    }


def _terms(job: Job, wish: Wish, image: Image) -> dict[str, str]:
    return {
        "size": f"{image.width}x{image.height}",
        "quality": wish.quality,
        "background": "opaque",
        "output_format": job.order["output_format"],
    }


def _handed_over(image: Image, wish: Wish, request: HttpRequest) -> dict[str, str]:
    if wish.in_urls:
        return {"url": absolute(request, storage.signed_path(image)[0])}
    return {"b64_json": _encoded(image)}


def _encoded(image: Image) -> str:
    with storage.open_image(image) as stored:
        return base64.b64encode(stored.read()).decode()
