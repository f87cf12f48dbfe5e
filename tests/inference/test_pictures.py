"""Which pictures an operation takes, how large the model sees them, and what is refused before any work."""

import io
import re
from dataclasses import replace

import numpy as np
import pytest
from diffusers.pipelines.qwenimage.pipeline_qwenimage_edit_plus import calculate_dimensions
from PIL import Image

from inference import pictures
from inference.card import ModelCard
from inference.errors import InvalidRequest
from inference.models import catalog
from inference.request import TILE, Operation, Request
from tests.inference.conftest import order

CARD = ModelCard("a model", "", "", min_side=64, operations=(*catalog.FROM_LATENTS, "edit"))


def image(width: int = 64, height: int = 64) -> Image.Image:
    return Image.new("RGB", (width, height))


def white(width: int = 64, height: int = 64) -> Image.Image:
    return Image.new("L", (width, height), 255)


def torn() -> Image.Image:
    file = io.BytesIO()
    Image.effect_noise((64, 64), 90).save(file, "PNG")
    return Image.open(io.BytesIO(file.getvalue()[:900]))


def ready(operation: str, **changes) -> Request:
    """Make a request that is accepted except for the changes."""
    values = {
        "generate": {},
        "edit": {"images": (image(),)},
        "img2img": {"images": (image(),), "strength": 0.5},
        "inpaint": {"images": (image(),), "strength": 0.5, "mask": white()},
        "outpaint": {"images": (image(),), "extend": (64, 0, 0, 64)},
        "redraw": {"images": (image(),), "strength": 0.5, "box": (10, 20, 30, 40)},
    }
    return order(operation=operation, **values[operation] | changes)


@pytest.mark.parametrize("operation", list(Operation))
def test_each_operation_is_accepted_with_what_it_needs(operation):
    catalog.validate(ready(operation), CARD)


@pytest.mark.parametrize(
    ("operation", "param", "value", "says"),
    [
        ("generate", "images", (image(),), "must be 0 for generate, not 1"),
        ("generate", "mask", white(), "no mask"),
        ("generate", "strength", 0.5, "no strength"),
        ("edit", "images", (), "must be 1 to 3 for edit, not 0"),
        ("edit", "images", (image(),) * 4, "not 4"),
        ("edit", "images", (image(2049, 64),), "from 16 to 2048 pixels, not 2049 by 64"),
        ("edit", "images", (image(), image(64, 15)), "not 64 by 15"),
        ("edit", "images", (torn(),), "cannot be read"),
        ("edit", "images", (Image.new("La", (64, 64)),), "cannot be read"),
        ("edit", "mask", white(), "no mask"),
        ("edit", "strength", 0.5, "no strength"),
        ("edit", "prompt", "draw <|image_pad|>", "must not contain"),
        ("edit", "negative_prompt", "<|video_pad|>", "must not contain"),
        ("img2img", "images", (), "must be 1 for"),
        ("img2img", "images", (image(), image()), "not 2"),
        ("img2img", "mask", white(), "no mask"),
        ("img2img", "strength", 0.0, "above 0"),
        ("img2img", "strength", 1.01, "at most 1"),
        ("img2img", "strength", float("nan"), "at most 1"),
        ("img2img", "strength", 1e-20, "leaves none to run"),
        ("inpaint", "images", (), "must be 1 for"),
        ("inpaint", "mask", None, "takes a mask"),
        ("inpaint", "mask", white(64, 80), "the size of its image, 64 by 64, not 64 by 80"),
        ("inpaint", "mask", Image.new("L", (64, 64), 127), "no white"),
        ("inpaint", "mask", torn(), "cannot be read"),
        ("inpaint", "strength", -0.5, "above 0"),
        ("inpaint", "extend", (16, 0, 0, 0), "no extend"),
        ("inpaint", "box", (0, 0, 32, 32), "no box"),
        ("outpaint", "images", (), "must be 1 for"),
        ("outpaint", "mask", white(), "no mask"),
        ("outpaint", "extend", (0, 0, 0, 0), "not all of them 0"),
        ("outpaint", "extend", (-16, 0, 0, 64), "multiples of 16"),
        ("outpaint", "extend", (8, 0, 0, 0), "multiples of 16"),
        ("outpaint", "extend", (64, 0, 64, 0), "leave 16 pixels"),
        ("outpaint", "extend", (0, 64, 0, 64), "leave 16 pixels"),
        ("redraw", "images", (), "must be 1 for"),
        ("redraw", "mask", white(), "no mask"),
        ("redraw", "box", None, "takes a box"),
        ("redraw", "box", (0, 0, 15, 64), "sides of 16 pixels at least"),
        ("redraw", "box", (0, -1, 64, 64), "lie in its image, 64 by 64"),
        ("redraw", "box", (0, 30, 65, 64), "lie in its image, 64 by 64"),
    ],
    ids=lambda value: re.sub(" at 0x[0-9A-F]+", "", str(value)),
)
def test_what_an_operation_does_not_take_is_refused_and_named(operation, param, value, says):
    with pytest.raises(InvalidRequest, match=says) as refusal:
        catalog.validate(ready(operation, **{param: value}), CARD)
    assert refusal.value.param == param


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16"])
def test_pictures_of_all_common_modes_are_taken(mode):
    request = ready("inpaint", images=(Image.new(mode, (64, 64)),), mask=white().convert("1"))
    catalog.validate(request, CARD)
    assert pictures.composite(image(), request.images[0], request.mask).mode == "RGB"


@pytest.mark.parametrize("operation", ["edit", "upscale", "EDIT", ""])
def test_an_operation_that_the_model_cannot_do_is_refused(operation):
    request = replace(ready("edit"), operation=operation)
    with pytest.raises(InvalidRequest, match="a plain model can generate") as refusal:
        catalog.validate(request, ModelCard("a plain model", "", "", min_side=64))
    assert refusal.value.param == "operation"


@pytest.mark.parametrize("size", [(64, 64), (1024, 1024), (1920, 1080), (50, 90), (2048, 700)])
@pytest.mark.parametrize("area", [128 * 128, 384 * 384, 1024 * 1024])
def test_sizes_are_those_of_diffusers(size, area):
    assert pictures.fit(size, area) == calculate_dimensions(area, size[0] / size[1])


def test_even_the_longest_strip_keeps_a_side():
    assert pictures.fit((2048, 16), 64 * 64) == (736, 32)


def test_a_card_says_at_what_area_an_edit_sees_its_pictures():
    request = order(operation="edit", images=(image(), image(400, 200)), width=128, height=128)
    assert pictures.condition_grids(request, CARD) == ((64, 64), (45 + 1, 90))
    card = ModelCard("a model", "", "", condition_area=None)
    assert pictures.condition_grids(request, card) == ((8, 8), (6, 12))
    assert pictures.condition_grids(ready("img2img"), CARD) == ()


def test_a_mask_is_white_from_half_on_and_read_in_cells_of_eight():
    mask = Image.new("L", (64, 32))
    mask.paste(128, (0, 0, 9, 32))
    mask.paste(127, (40, 0, 64, 32))
    expected = np.zeros((4, 8))
    expected[:, :2] = 1
    assert (pictures.cells(mask, (64, 32)) == expected).all()


def test_an_edit_counts_the_tokens_of_its_pictures():
    request = order(operation="edit", images=(image(),), guidance_scale=1.0)
    request.state.condition_grids = ((4, 4), (8, 6))
    assert request.image_tokens == (128 // TILE) ** 2 + 16 + 48
