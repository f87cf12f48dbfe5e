"""Orders of jobs as they come in: their fields, and the checks of them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from functools import cache, lru_cache
from typing import Any
from uuid import UUID

from django.conf import settings
from rest_framework import serializers

from inference import pictures
from inference.adapters.recipes import Recipe
from inference.card import ModelCard
from inference.errors import InvalidPicture
from inference.models import catalog
from inference.models.catalog import MAX_ADAPTER_SCALE, MAX_ADAPTERS
from inference.request import MAX_SEED, Operation
from marketplace.adapters import choice
from marketplace.adapters.choice import NotUsable
from marketplace.adapters.uses import Use, Wanted
from marketplace.api.bodies import StrictSerializer
from marketplace.api.fields import (
    HTTPS,
    Array,
    Choice,
    Flag,
    Labels,
    Number,
    Source,
    Text,
    Tokens,
    Whole,
    webhook_address,
)
from marketplace.api.pages import ListQuery
from marketplace.api.problems import invalid
from marketplace.files.errors import UnknownFile
from marketplace.jobs import inputs, reuse, submission
from marketplace.jobs.models import ServiceClass, Status
from marketplace.jobs.orders import Input, JobOrder
from marketplace.jobs.storage import FORMATS
from marketplace.remote import MAX_URL, Unreachable
from marketplace.text import is_blank

OPERATIONS = [each.value for each in Operation]
MAX_PROMPT = 4000
MAX_STEPS = 100
MAX_N = 10
MAX_METADATA = 16
MAX_IMAGES = 16
MAX_EXTEND = 4096
REPAINTS = (Operation.IMG2IMG, Operation.INPAINT, Operation.REDRAW)
ADAPTER = "adapter/"
"""How the name of an adapter begins where a model's may stand."""
LABEL = Text(max_length=40, trim_whitespace=False)


class AdapterUseSerializer(StrictSerializer):
    """An adapter that an order is drawn with."""

    id = Text(max_length=36, help_text="The id of an adapter of yours, shared with you, or published.")
    version = Whole(
        required=False, allow_null=True, default=None, min_value=1, max_value=2**31 - 1,
        help_text="Default: the newest that is ready.",
    )  # fmt: skip
    scale = Number(
        default=1.0, min_value=-MAX_ADAPTER_SCALE, max_value=MAX_ADAPTER_SCALE,
        help_text="How strongly it changes the picture.",
    )  # fmt: skip


class OrderSerializer(StrictSerializer):
    """The body of `POST /v1/jobs` and `POST /v1/quotes`; what is left out takes the model's default."""

    operation = Choice(choices=OPERATIONS, default="generate")
    model = Text(required=False, max_length=100, help_text="A name from `GET /v1/models`, or `adapter/HANDLE/SLUG`.")
    prompt = Text(max_length=MAX_PROMPT, allow_blank=True, trim_whitespace=False, line=False)
    negative_prompt = Text(max_length=MAX_PROMPT, allow_blank=True, default="", trim_whitespace=False, line=False)
    width = Whole(
        required=False, min_value=1,
        help_text="Pixels, a multiple of 16. Default: what suits the operation and its picture.",
    )  # fmt: skip
    height = Whole(required=False, min_value=1, help_text="Pixels, a multiple of 16.")
    steps = Whole(required=False, min_value=1, max_value=MAX_STEPS)
    guidance_scale = Number(required=False, min_value=0, help_text="1 or less turns guidance off.")
    seed = Whole(
        required=False, allow_null=True, default=None, min_value=0, max_value=MAX_SEED,
        help_text="Drawn at random where absent. Each further picture takes the next one, and 0 after the largest.",
    )  # fmt: skip
    n = Whole(default=1, min_value=1, max_value=MAX_N, help_text="Pictures.")
    images = Array(
        child=Source(), default=list, max_length=MAX_IMAGES,
        help_text="Up to three pictures to edit, one for img2img, inpaint, outpaint and redraw. Each the id of a file, "
        "a data URL, or an https address.",
    )  # fmt: skip
    mask = Source(
        required=False, allow_null=True, default=None,
        help_text="As a picture is given. Inpaint repaints, and an edit changes its first picture, only where it is "
        "white; or, if it has transparent places, only there.",
    )  # fmt: skip
    strength = Number(
        required=False, allow_null=True, default=None,
        help_text="How far img2img, inpaint, outpaint and redraw go back to noise, above 0 to 1: the share of the "
        "steps that run and are paid. Default: the model's `default_strength`, 1 for outpaint.",
    )  # fmt: skip
    extend = Array(
        child=Whole(min_value=0, max_value=MAX_EXTEND), required=False, min_length=4, max_length=4,
        help_text="Pixels that outpaint adds: left, top, right, bottom, multiples of 16.",
    )  # fmt: skip
    box = Array(
        child=Whole(min_value=0, max_value=MAX_EXTEND), required=False, allow_null=True, default=None,
        min_length=4, max_length=4, help_text="What redraw repaints, in pixels: left, top, right, bottom.",
    )  # fmt: skip
    deterministic = Flag(
        default=False,
        help_text="The same order with the same seed gives the same picture, bit for bit; it shares no batch.",
    )
    adapters = Array(
        child=AdapterUseSerializer(), default=list, max_length=MAX_ADAPTERS,
        help_text="Their changes add up. Steps and guidance that are not said are those of their recipes.",
    )  # fmt: skip
    service_class = Choice(choices=ServiceClass.choices, default="standard")
    output_format = Choice(choices=list(FORMATS), default="png")
    output_compression = Whole(
        required=False, allow_null=True, default=None, min_value=1, max_value=100,
        help_text="Quality of a JPEG or WebP, up to 100. Default: what is usual for the format.",
    )  # fmt: skip
    cache = Choice(
        choices=list(reuse.MODES), required=False,
        help_text="`on`: begin from latents of your earlier, similar pictures, which is faster, costs less and may "
        "resemble them; `exact`: only give stored pictures again where order and seed are the same; `off`: neither. "
        "Default: `exact` with a seed, else `on`.",
    )  # fmt: skip
    max_cost = Tokens(required=False, allow_null=True, default=None, help_text="Refuse when the quote is above.")
    metadata = Labels(
        names=LABEL,
        most=MAX_METADATA,
        child=Text(max_length=500, allow_blank=True, trim_whitespace=False, line=False),
        default=dict,
        help_text="Your own labels, given back.",
    )
    webhook_url = Text(
        required=False, allow_null=True, default=None, max_length=MAX_URL, pattern=HTTPS,
        help_text="An https address that is told when the job has ended, signed with the account's secret (`POST "
        "/v1/account/webhook-secret`).",
    )  # fmt: skip

    def validate_webhook_url(self, url: str | None) -> str | None:
        return url and webhook_address(url)

    def validate_model(self, model: str) -> str | Wanted:
        """Return a model's name, or the adapter that stands in its place."""
        if not model.startswith(ADAPTER):
            return model
        handle, _, slug = model.removeprefix(ADAPTER).partition("/")
        return Wanted(named=(handle, slug))

    def validate_adapters(self, adapters: list[dict[str, Any]]) -> list[Wanted]:
        return [Wanted(**each) for each in adapters]

    def validate(self, attributes: dict[str, Any]) -> dict[str, Any]:
        card = _served(settings.MODEL, int(time.monotonic()))
        if isinstance(attributes.get("model"), Wanted):
            attributes["adapters"] = [attributes.pop("model"), *attributes["adapters"]]
            if len(attributes["adapters"]) > MAX_ADAPTERS:
                raise serializers.ValidationError({"adapters": [f"With the model's at most {MAX_ADAPTERS}."]})
        if attributes.setdefault("model", card.name) != card.name:
            raise serializers.ValidationError(
                {"model": [f"This model is not served; {card.name} is."]}, code="unknown_model"
            )
        if attributes["operation"] not in card.operations:
            raise serializers.ValidationError({"operation": ["This model does not do that."]})
        if Operation(attributes["operation"]).needs_prompt and is_blank(attributes["prompt"]):
            raise serializers.ValidationError({"prompt": ["Must not be blank."]}, code="blank")
        if attributes["output_compression"] and attributes["output_format"] == "png":
            raise serializers.ValidationError({"output_compression": ["A PNG is compressed without loss."]})
        attributes.setdefault("cache", reuse.ON if attributes["seed"] is None else reuse.EXACT)
        for name in ("prompt", "negative_prompt"):
            if len(attributes[name]) > card.max_prompt_length:
                raise serializers.ValidationError({name: [f"Must have at most {card.max_prompt_length} characters."]})
        return attributes


@lru_cache(maxsize=4)
def _served(model: str, second: int) -> ModelCard:
    """Return the model's card, read from disk at most once a second."""
    return catalog.card(model)


@cache
def _orders() -> OrderSerializer:
    return OrderSerializer()


def order(body: Any, account_id: UUID, pace: float = 1.0, key: str | None = None) -> JobOrder:
    """Return a request's body as an account's order, which takes `pace` times the default steps if it says none.

    With the idempotency `key` of a job it is the order of that job, also if its adapters cannot be ordered any more.

    Raises ValidationError if it cannot be one, and what `inputs` do.

    `run_validation` keeps no state in the serializer, so one serves all threads; a new one would copy all its fields.
    """
    values = _orders().run_validation(body)
    card = _served(settings.MODEL, int(time.monotonic()))
    values["adapters"], recipe = _choose(account_id, values["adapters"], card, key)
    _with_steps(values, card, recipe, pace)
    images, mask = values.pop("images"), values.pop("mask")
    strength, extend, box = values.pop("strength"), values.pop("extend", None), values.pop("box")
    plain = values["operation"] == Operation.GENERATE and not (images or mask or strength or extend or box)
    if plain:
        return JobOrder(**_with_size(values, card, card.default_width, card.default_height))
    return with_inputs(
        values, card, [_look(account_id, f"images.{index}", source, card) for index, source in enumerate(images)],
        mask and _look(account_id, "mask", mask, card), strength, tuple(extend or (0, 0, 0, 0)), box and tuple(box),
    )  # fmt: skip


def _choose(account_id: UUID, wanted: list[Wanted], card: ModelCard, key: str | None) -> tuple[tuple[Use, ...], Recipe]:
    """Return the adapters of an order and their recipe. Raises Problem, of that field, if one cannot be used."""
    if not wanted:
        return (), Recipe()
    try:
        return choice.choose(account_id, wanted, card, submission.bought_terms(account_id, key) if key else ())
    except NotUsable as error:
        by_model = wanted[0].named is not None
        param = "model" if by_model and error.index == 0 else f"adapters.{error.index - by_model}"
        raise invalid(param, error.message, error.code) from error


def _with_steps(values: dict[str, Any], card: ModelCard, recipe: Recipe, pace: float) -> None:
    """Let steps and guidance that were not asked for be the recipe's or the model's, and check them."""
    steps, guidance_scale = catalog.by_recipe(card, recipe)
    most = min(card.max_steps, MAX_STEPS)
    if "steps" not in values:
        values["steps"] = steps if pace == 1 else min(most, max(1, int(steps * pace)))
    if values["steps"] > most:
        raise serializers.ValidationError({"steps": [f"Must be at most {most}."]})
    if values.setdefault("guidance_scale", guidance_scale) > card.max_guidance_scale:
        raise serializers.ValidationError({"guidance_scale": [f"Must be at most {card.max_guidance_scale:g}."]})


def with_inputs(
    values: dict[str, Any],
    card: ModelCard,
    images: Sequence[Input],
    mask: Input | None,
    strength: float | None,
    extend: tuple[int, int, int, int],
    box: tuple[int, int, int, int] | None,
) -> JobOrder:
    """Return an order with pictures. Raises InvalidRequest if they do not fit its other terms or the model."""
    operation = values["operation"]
    pictures.check_operation(operation, len(images), card)
    sizes = [(each.width, each.height) for each in images]
    _with_size(values, card, *pictures.default_size(operation, sizes, extend, card))
    if strength is None:
        strength = card.default_strength if operation in REPAINTS else 1.0
    made = JobOrder(**values, images=tuple(images), mask=mask, strength=strength, extend=extend, box=box)
    try:
        inputs.check(made, card)
    except FileNotFoundError as error:  # deleted since it was found
        raise invalid("mask", "There is no such file.", "unknown_file") from error
    seen = pictures.condition_sizes(operation, made.width * made.height, sizes, card)
    return replace(made, input_pixels=sum(width * height for width, height in seen))


def _with_size(values: dict[str, Any], card: ModelCard, width: int, height: int) -> dict[str, Any]:
    """Let a size that was not asked for be this one, and check it."""
    for side, default in (("width", width), ("height", height)):
        check_side(side, values.setdefault(side, default), card)
    return values


def _look(account_id: UUID, param: str, source: str | bytes, card: ModelCard) -> Input:
    """Return a picture that an order names or brings. Raises Problem, of that field, if it cannot be had."""
    try:
        return inputs.look(account_id, source, card)
    except UnknownFile as error:
        raise invalid(param, "There is no such file.", "unknown_file") from error
    except InvalidPicture as error:
        raise invalid(param, f"This picture cannot be used: {error}.", "invalid_picture") from error
    except Unreachable as error:
        raise invalid(param, f"This picture cannot be fetched: {error}.", "unreachable_picture") from error


def check_side(name: str, value: int, card: ModelCard) -> None:
    """Raise ValidationError if the model cannot make a width or height of so many pixels."""
    if value % card.side_multiple or not card.min_side <= value <= card.max_side:
        limits = f"a multiple of {card.side_multiple} from {card.min_side} to {card.max_side}"
        raise serializers.ValidationError({name: [f"Must be {limits}."]})


class JobListQuery(ListQuery):
    status = Choice(choices=Status.values, required=False)
