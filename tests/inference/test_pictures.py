"""Which pictures an operation takes, how large the model sees them, and what is refused before any work."""

import io
import re
from dataclasses import replace

import numpy as np
import pytest
from diffusers.pipelines.qwenimage.pipeline_qwenimage_edit_plus import calculate_dimensions
from PIL import Image, ImageDraw

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
        ("edit", "images", (Image.new("I", (64, 64)),), "32 bits"),
        ("edit", "mask", white(64, 32), "the size of its image"),
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
        ("outpaint", "images", (image(65, 64),), "its size, 65 by 64, rounded up to multiples of 16, not 64 by 64"),
        ("outpaint", "images", (image(64, 48),), "its size, 64 by 48, rounded up to multiples of 16, not 64 by 64"),
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
    assert refusal.value.param == ("extend" if "rounded up" in says else param)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "La", "P", "PA", "RGBA", "RGBa", "CMYK", "YCbCr", "I;16", "F"])
def test_pictures_of_all_common_modes_are_taken(mode):
    request = ready("inpaint", images=(Image.new(mode, (64, 64)),), mask=white().convert("1"))
    catalog.validate(request, CARD)
    assert pictures.composite(image(), request.images[0], request.mask).mode == "RGB"


def test_a_picture_that_is_too_large_is_not_decoded():
    file = io.BytesIO()
    Image.new("L", (4000, 4000)).save(file, "PNG")
    large = Image.open(file)
    for operation, changes in (("img2img", {"images": (large,)}), ("inpaint", {"mask": large})):
        with pytest.raises(InvalidRequest, match="from 16 to 2048 pixels, not 4000 by 4000"):
            catalog.validate(ready(operation, **changes), CARD)
    assert large.tile


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


def lines(**drawn) -> Image.Image:
    """Draw a mask of the given size with lines and shapes by name of the method."""
    mask = Image.new("L", drawn.pop("size", (128, 128)))
    for shape, place in drawn.items():
        getattr(ImageDraw.Draw(mask), shape)(place, fill=255, **({"start": 0, "end": 360} if shape == "arc" else {}))
    return mask


THIN = {
    "a line between first pixels": lines(line=(3, 0, 3, 127)),
    "a line across": lines(line=(0, 125, 127, 125)),
    "a slanted line": lines(line=(0, 2, 127, 61)),
    "one pixel": lines(point=(127, 127)),
    "a ring": lines(arc=(10, 10, 115, 115)),
    "a line beside a block": lines(rectangle=(0, 0, 40, 127), line=(61, 0, 61, 127)),
    "a rim at the right": lines(rectangle=(125, 0, 127, 127)),
    "a line that shrinks eightfold": lines(size=(1024, 1024), line=(100, 0, 100, 1023)),
    "a pixel that shrinks eightfold": lines(size=(1024, 1024), point=(1023, 7)),
    "a line that is enlarged": lines(size=(48, 40), line=(0, 0, 47, 39)),
}


@pytest.mark.parametrize("mask", THIN.values(), ids=THIN.keys())
def test_no_white_pixel_of_a_thin_mask_is_lost(mask):
    cells = pictures.cells(mask, (128, 128))
    rows, columns = (np.asarray(mask) > 0).nonzero()
    thin = columns > 60 if len(rows) > 5000 else columns >= 0  # beside the block
    assert cells[rows[thin] * 16 // mask.height, columns[thin] * 16 // mask.width].all()
    assert cells.mean() <= 0.6


@pytest.mark.parametrize("radius", [9, 16, 23, 40, 61])
@pytest.mark.parametrize("shape", ["ellipse", "rectangle", "rounded_rectangle"])
def test_a_thick_mask_is_read_as_in_diffusers(shape, radius):
    for centre in range(64, 72):
        mask = lines(size=(144, 128), **{shape: (centre - radius, 64 - radius, centre + radius, 64 + radius)})
        white = (np.asarray(mask) >= 128).astype(np.float32)
        assert (pictures.cells(mask, mask.size) == white[::8, ::8]).all()


def test_a_mask_that_is_all_white_repaints_everything_and_one_of_one_pixel_is_enough():
    catalog.validate(ready("inpaint", mask=lines(size=(64, 64), point=(63, 62))), CARD)
    assert pictures.cells(white(), (128, 64)).all()


def test_an_edit_counts_the_tokens_of_its_pictures():
    request = order(operation="edit", images=(image(),), guidance_scale=1.0)
    request.state.condition_grids = ((4, 4), (8, 6))
    assert request.image_tokens == (128 // TILE) ** 2 + 16 + 48
