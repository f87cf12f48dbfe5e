"""The bodies of models."""

from __future__ import annotations

from marketplace.api.bodies import Body
from marketplace.api.fields import Array, Number, Text, Whole


class ModelBody(Body):
    name = Text()
    revision = Text()
    description = Text()
    operations = Array(child=Text())
    min_side = Whole()
    max_side = Whole()
    side_multiple = Whole()
    max_steps = Whole()
    default_width = Whole()
    default_height = Whole()
    default_steps = Whole()
    default_guidance_scale = Number()
    max_guidance_scale = Number()
    default_strength = Number()
    max_images = Whole()
    max_image_side = Whole()
    condition_area = Whole(
        allow_null=True, help_text="Pixels at which an edit sees each of its images; null: as many as the output has."
    )


class ModelList(Body):
    data = ModelBody(many=True, of="row")  # type: ignore[assignment]
