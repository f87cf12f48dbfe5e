"""Orders in OpenAI's words, and how they become ours."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from rest_framework import serializers

from inference.card import ModelCard
from inference.request import Operation
from marketplace.api.bodies import Body, StrictSerializer
from marketplace.api.fields import Choice, Flag, Identifier, Text, Tokens, Upload, Whole
from marketplace.api.jobs import schemas as jobs
from marketplace.api.problems import invalid
from marketplace.jobs.orders import JobOrder
from marketplace.jobs.storage import FORMATS

SIZE = re.compile("([0-9]{1,5})x([0-9]{1,5})")
DESCRIBED_SIZE = "^(auto|[0-9]{1,5}x[0-9]{1,5})$"
QUALITIES = {"auto": 1.0, "low": 0.5, "medium": 1.0, "standard": 1.0, "high": 1.5, "hd": 1.5, "xhigh": 2.0, "max": 2.0}
"""Steps of each quality, as a share of the default of the model or its adapters."""
TOLD = {"auto": "medium", "standard": "medium", "hd": "high"}
"""Qualities that an answer tells by another name."""
ALIASES = {"num_inference_steps": "steps", "true_cfg_scale": "guidance_scale"}
"""Names that other clients use for fields of ours."""
MAX_PARTIAL = 3
MORE = "All fields of `POST /v1/jobs` may be sent, too."


class OptionsSerializer(StrictSerializer):
    """What OpenAI's clients say that is not a field of an order of ours."""

    whole = False
    size = Text(default="auto", max_length=11, pattern=DESCRIBED_SIZE, help_text="`WxH` in pixels, or `auto`.")
    quality = Choice(
        choices=list(QUALITIES), default="auto",
        help_text="How many steps: half of the model's default for `low`, 1.5 times for `high`, twice for `max`.",
    )  # fmt: skip
    background = Choice(choices=["auto", "opaque"], default="auto", help_text="Pictures are opaque.")
    moderation = Choice(choices=["auto", "low"], default="auto")
    style = Choice(choices=["vivid", "natural"], required=False)  # type: ignore[assignment]
    input_fidelity = Choice(choices=["high", "low"], required=False)
    response_format = Choice(choices=["b64_json", "url"], default="b64_json")
    stream = Flag(default=False, help_text="Server-sent events with `partial_images` and the pictures.")
    partial_images = Whole(default=0, min_value=0, max_value=MAX_PARTIAL)
    user = Text(required=False, max_length=200, allow_blank=True)
    safety_identifier = Text(required=False, max_length=200, allow_blank=True)


class GenerationSerializer(OptionsSerializer):
    __doc__ = f"The body of `POST /v1/images/generations`. {MORE}"

    prompt = Text(max_length=jobs.MAX_PROMPT, line=False)
    model = Text(required=False, max_length=100)
    n = Whole(default=1, min_value=1, max_value=jobs.MAX_N)
    output_format = Choice(choices=list(FORMATS), default="png")
    output_compression = Whole(required=False, min_value=1, max_value=100)


class PictureBody(Body):
    image_url = Text(required=False, help_text="A data URL or an https address.")
    file_id = Text(required=False)


class EditSerializer(GenerationSerializer):
    __doc__ = f"The body of `POST /v1/images/edits` as JSON. {MORE}"

    images = PictureBody(many=True)
    mask = PictureBody(required=False)


class EditForm(GenerationSerializer):
    __doc__ = f"The body of `POST /v1/images/edits` as a form. {MORE}"

    image = serializers.ListField(child=Upload(), help_text="`image`, or `image[]` for several.")
    mask = Upload(required=False, help_text="Of the first picture's size; what is transparent there may change.")


class TokenDetails(Body):
    text_tokens = Whole(given=True)
    image_tokens = Whole(given=True)


class UsageBody(Body):
    """Image tokens are those of the model, 16 by 16 pixels each; text is counted in characters, as it is priced."""

    input_tokens = Whole(given=True)
    input_tokens_details = TokenDetails(given=True)
    output_tokens = Whole(given=True)
    total_tokens = Whole(given=True)


class MadeBody(Body):
    b64_json = Text(given=True, allow_null=True, help_text="Null where links were asked for.")
    url = Text(given=True, allow_null=True, help_text="Null where they were not.")
    seed = Whole()


# the row of all that follows is the job
class HandedOver(Body):
    size = Text(given=True)
    quality = Text(given=True)
    background = Text(of=lambda job: "opaque")


class Finished(HandedOver):
    output_format = Text(of='row.order["output_format"]')
    usage = UsageBody(given=True)
    id = Identifier(help_text="The job's.")
    cost = Tokens(of="row.captured", help_text="Tokens charged.")


class ImagesBody(Finished):
    created = Whole(of=lambda job: int(job.created_at.timestamp()), help_text="Unix seconds.")
    data = MadeBody(many=True, given=True)  # type: ignore[assignment]


class Event(Body):
    type = Text(given=True)
    b64_json = Text(given=True)
    created_at = Whole(given=True)


class CompletedEvent(Event, Finished):
    seed = Whole(given=True)


class PartialEvent(Event, HandedOver):
    partial_image_index = Whole(given=True)
    output_format = Text(of=lambda job: "jpeg")


@dataclass(frozen=True)
class Wish:
    """How the pictures of an order are to be handed over."""

    event: str
    """What its events are called: image_generation or image_edit."""
    quality: str
    in_urls: bool
    streamed: bool
    partial_images: int


def generation(body: dict[str, Any], account_id: UUID, card: ModelCard, key: str | None) -> tuple[JobOrder, Wish]:
    """Return a body of `POST /v1/images/generations` as an order. `key` and what it raises are as in `jobs.order`."""
    return _order(body, account_id, card, key, "image_generation", Operation.GENERATE)


def edit(body: dict[str, Any], account_id: UUID, card: ModelCard, key: str | None) -> tuple[JobOrder, Wish]:
    """Return a body of `POST /v1/images/edits` as an order. `key` and what it raises are as in `jobs.order`."""
    pictures = body.pop("image", None)
    if pictures is not None:
        if "images" in body:
            raise invalid("images", "Send `image` or `images`, not both.")
        body["images"] = pictures if isinstance(pictures, list) else [pictures]
    named = body.get("images")
    if isinstance(named, list):
        body["images"] = [_picture(f"images.{index}", each) for index, each in enumerate(named)]
    if "mask" in body:
        body["mask"] = _picture("mask", body["mask"])
    operation = Operation.EDIT if Operation.EDIT in card.operations else Operation.INPAINT
    return _order(body, account_id, card, key, "image_edit", operation)


def sources() -> dict[str, serializers.Field[Any, Any, Any, Any]]:
    """Return all fields that a form may have, by name."""
    fields = {**OptionsSerializer().fields, **jobs.OrderSerializer().fields}
    return {**fields, **{name: fields[ours] for name, ours in ALIASES.items()}}


def _order(
    body: dict[str, Any], account_id: UUID, card: ModelCard, key: str | None, event: str, operation: Operation
) -> tuple[JobOrder, Wish]:
    said = {name: value for name, value in body.items() if value is not None}
    for name, ours in ALIASES.items():
        if name in said:
            if ours in said:
                raise invalid(name, f"This is another name of `{ours}`: send one of them.")
            said[ours] = said.pop(name)
    names = OptionsSerializer().fields.keys()
    options = OptionsSerializer().run_validation({name: said.pop(name) for name in said.keys() & names})
    rest = _sized(options["size"], said, card) | said
    rest.setdefault("operation", operation.value)
    wish = Wish(
        event=event,
        quality=TOLD.get(options["quality"], options["quality"]),
        in_urls=options["response_format"] == "url",
        streamed=options["stream"],
        partial_images=options["partial_images"],
    )
    return jobs.order(rest, account_id, QUALITIES[options["quality"]], key), wish


def _sized(size: str, said: dict[str, Any], card: ModelCard) -> dict[str, int]:
    """Return width and height of a size; none for `auto`, for which the model's or the picture's are taken."""
    if size == "auto":
        return {}
    found = SIZE.fullmatch(size)
    if found is None or said.keys() & {"width", "height"}:
        raise invalid("size", "Must be `auto` or as `1024x1024`, and without `width` and `height`.")
    width, height = int(found[1]), int(found[2])
    if any(side % card.side_multiple or not card.min_side <= side <= card.max_side for side in (width, height)):
        message = (
            f"{card.name} has sides of {card.min_side} to {card.max_side} pixels, multiples of {card.side_multiple}."
        )
        raise invalid("size", message)
    return dict(zip(("width", "height"), (width, height), strict=True))


def _picture(param: str, said: Any) -> Any:
    """Return a picture's source: text as in our own orders, bytes of a form, or an object that names one of both."""
    if not isinstance(said, dict):
        return said
    [found] = said.values() if len(said) == 1 and said.keys() <= {"image_url", "file_id"} else [None]
    if found is None:
        raise invalid(param, "Must be an object with `image_url` or `file_id`.")
    return found
