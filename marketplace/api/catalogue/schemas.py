"""The bodies of what is sold: models, prices and Token packs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from billing.amounts import format_fraction
from billing.prices.pricing import PriceList
from inference.card import ModelCard
from inference.models.catalog import INDEX
from inference.request import MAX_SEED
from marketplace.api.bodies import Body
from marketplace.api.fields import Array, Number, Object, Text, Tokens, Whole
from marketplace.api.jobs.schemas import MAX_METADATA, MAX_N, MAX_PROMPT, MAX_STEPS, OPERATIONS
from marketplace.api.topups.schemas import PackBody
from marketplace.jobs.models import ServiceClass
from marketplace.jobs.storage import FORMATS

FACTORS = "Factors of the price, by name."


def _created(card: ModelCard) -> int:
    """Return when a model's folder was written, in Unix seconds; 0 for one of the hub, where that is not known."""
    index = Path(card.path) / INDEX
    return int(index.stat().st_mtime) if index.is_file() else 0


class ModelBody(Body):
    """A model in our words and in OpenAI's (`id`, `object`, `created`, `owned_by`)."""

    id = Text(of="row.name")
    object = Text(of=lambda card: "model")
    created = Whole(of=_created, help_text="Unix seconds.")
    owned_by = Text(of=lambda card: "kiln")
    name = Text()
    revision = Text()
    description = Text()
    operations = Array(child=Text(), given=True)
    service_classes = Object(child=Text(), given=True, help_text=FACTORS)
    output_formats = Array(child=Text(), of=lambda card: list(FORMATS))
    min_side = Whole()
    max_side = Whole()
    side_multiple = Whole()
    max_steps = Whole(of=lambda card: min(card.max_steps, MAX_STEPS))
    max_guidance_scale = Number()
    max_prompt_length = Whole(
        of=lambda card: min(card.max_prompt_length, MAX_PROMPT), help_text="In code points, after normalisation to NFC."
    )
    max_n = Whole(of=lambda card: MAX_N)
    max_seed = Whole(of=lambda card: MAX_SEED)
    max_metadata = Whole(of=lambda card: MAX_METADATA, help_text="Labels.")
    default_width = Whole()
    default_height = Whole()
    default_steps = Whole()
    default_guidance_scale = Number()
    default_strength = Number()
    max_images = Whole(help_text="Of an edit.")
    max_image_side = Whole(help_text="Of an input picture, in pixels.")
    condition_area = Whole(
        allow_null=True,
        help_text="Pixels at which an edit sees each of its pictures, and is priced for it; null: as many as it makes.",
    )


class ModelList(Body):
    object = Text(of=lambda _: "list")
    data = ModelBody(many=True, given=True)  # type: ignore[assignment]


class PricesBody(Body):
    """A picture costs base_cost × pixels/1024² × steps/50 × √(characters/100) × its service class × its operation.

    An edit's pixels are those of the picture that it makes and those at which it sees its pictures. Steps are those
    that run, which is the share by `strength` where the model begins from a picture.
    """

    version = Whole()
    base_cost = Tokens()
    prompt_floor = Whole(help_text="Shorter prompts are priced as if they had so many characters.")
    service_classes = Object(child=Text(), of=lambda prices: service_factors(prices), help_text=FACTORS)
    operations = Object(child=Text(), of=lambda prices: operation_factors(prices), help_text=FACTORS)
    skipped_step = Text(
        of=lambda prices: format_fraction(prices.skipped_step, 3),
        help_text="What a step that a cache saved costs, as a share of one that was run.",
    )


class PackList(Body):
    data = PackBody(many=True, of="row")  # type: ignore[assignment]


def show_model(card: ModelCard, prices: PriceList) -> dict[str, Any]:
    sold = [name for name in operation_factors(prices) if name in card.operations]
    return ModelBody.show(card, operations=sold, service_classes=service_factors(prices))


def operation_factors(prices: PriceList) -> dict[str, str]:
    """Return the factors of the operations that are sold."""
    return _factors(prices.operations, OPERATIONS)


def service_factors(prices: PriceList) -> dict[str, str]:
    return _factors(prices.service_classes, ServiceClass.values)


def _factors(thousandths: Mapping[str, int], names: list[str]) -> dict[str, str]:
    return {name: format_fraction(thousandths[name], 3) for name in names if name in thousandths}
