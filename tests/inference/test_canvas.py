"""Outpainting extends a picture beyond its edges, a redraw repaints a box of it; the rest keeps its pixels."""

import numpy as np
import pytest
from diffusers import QwenImageInpaintPipeline
from PIL import Image, ImageDraw

from inference.request import TILE, Request
from tests.inference.conftest import difference, order
from tests.inference.test_edits_and_masks import diffusers_picture, like

PROMPT = "a red circle on a white background"


def scene(size: tuple[int, int] = (128, 128)) -> Image.Image:
    """Draw a red circle on white."""
    image = Image.new("RGB", size, "white")
    ImageDraw.Draw(image).ellipse((30, 40, 80, 90), fill="red")
    return image


def outpaint(image: Image.Image, extend: tuple[int, int, int, int], **changes) -> Request:
    left, top, right, bottom = extend
    size = {"width": image.width + left + right, "height": image.height + top + bottom}
    return order(PROMPT, operation="outpaint", images=(image,), extend=extend, **size | changes)


def redraw(image: Image.Image, box: tuple[int, int, int, int], **changes) -> Request:
    return order(PROMPT, operation="redraw", images=(image,), box=box, **{"strength": 0.8, "steps": 5} | changes)


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image).astype(int)


@pytest.mark.parametrize(
    "extend", [(64, 0, 0, 0), (0, 48, 0, 0), (0, 0, 16, 0), (0, 0, 0, 64), (16, 32, 48, 16)], ids=str
)
def test_an_outpainting_goes_on_in_any_direction_and_keeps_every_pixel(engine, extend):
    noisy = Image.effect_noise((128, 128), 60).convert("RGB")
    made = engine.submit(outpaint(noisy, extend, steps=2)).result().image
    left, top, right, bottom = extend
    assert made.size == (128 + left + right, 128 + top + bottom)
    assert (pixels(made.crop((left, top, left + 128, top + 128))) == pixels(noisy)).all()
    outside = np.ones((made.height, made.width), bool)
    outside[top : top + 128, left : left + 128] = False
    assert pixels(made)[outside].std() > 1, "the margins are painted"


@pytest.mark.parametrize("size", [(100, 90), (65, 127), (79, 64)], ids=str)
@pytest.mark.parametrize("extend", [(64, 0, 0, 0), (0, 0, 16, 0), (16, 32, 48, 16)], ids=str)
def test_a_picture_of_any_size_keeps_every_pixel_and_gets_just_the_margins(engine, size, extend):
    noisy = Image.effect_noise(size, 60).convert("RGB")
    left, top, right, bottom = extend
    whole = size[0] + left + right, size[1] + top + bottom
    made = engine.submit(outpaint(noisy, extend, width=tiles(whole[0]), height=tiles(whole[1]), steps=1)).result().image
    assert made.size == whole
    assert (pixels(made.crop((left, top, left + size[0], top + size[1]))) == pixels(noisy)).all()
    if right:
        margin = pixels(made)[top : top + size[1], left + size[0] :]
        edge = pixels(noisy)[:, -1:]
        assert np.abs(margin - edge)[:, 0].mean() > 1, "the margin is painted up to the picture, not its edge repeated"


@pytest.mark.parametrize("size", [(100, 90), (65, 127), (64, 80), (50, 120)], ids=str)
def test_what_the_mask_of_a_picture_of_any_size_does_not_show_keeps_its_pixels(engine, size):
    noisy, mask = Image.effect_noise(size, 60).convert("RGB"), Image.new("L", size)
    ImageDraw.Draw(mask).rectangle((20, 20, 60, 60), fill=255)
    changes = {"operation": "inpaint", "images": (noisy,), "mask": mask, "strength": 0.8, "steps": 2}
    fitting = order(PROMPT, width=tiles(size[0]), height=tiles(size[1]), **changes)
    for request in (fitting, order(PROMPT, width=128, height=96, **changes)):
        made = engine.submit(request).result().image
        changed = (pixels(made) != pixels(noisy)).any(axis=-1)
        assert made.size == size
        assert not (changed & ~(np.asarray(mask) > 0)).any()
        assert changed[20:61, 20:61].mean() > 0.9


def test_a_line_of_one_pixel_is_painted_all_along(engine):
    green, mask = Image.new("RGB", (128, 128), "green"), Image.new("L", (128, 128))
    ImageDraw.Draw(mask).line((61, 0, 61, 127), fill=255)
    inputs = {"operation": "inpaint", "images": (green,), "mask": mask}
    made = engine.submit(order("a red background", strength=1.0, steps=4, **inputs)).result().image
    changed = (pixels(made) != pixels(green)).any(axis=-1)
    assert not np.delete(changed, 61, axis=1).any()
    assert np.abs(pixels(made) - pixels(green))[:, 61].sum(axis=-1).min() > 30


def tiles(side: int) -> int:
    """Round up to what the model can paint."""
    return -(-side // TILE) * TILE


@pytest.mark.parametrize("extend", [(64, 0, 0, 0), (0, 0, 64, 0), (0, 64, 0, 0), (0, 0, 0, 64)], ids=str)
def test_no_seam_is_seen_where_a_picture_goes_on(engine, extend):
    painted = pixels(engine.submit(outpaint(scene(), extend, steps=12)).result().image)
    unrelated = order("a blue square on a black background", width=painted.shape[1], height=painted.shape[0])
    pasted = engine.submit(unrelated).result().image
    pasted.paste(scene(), extend[:2])
    assert seam(painted, extend) < 12 < 60 < seam(pixels(pasted), extend)


def seam(picture: np.ndarray, extend: tuple[int, int, int, int]) -> float:
    """Return the mean step of a channel, of 255, across the line where the original meets what was added."""
    left, top, right, bottom = extend
    lines = picture.swapaxes(0, 1) if left or right else picture
    place = left or top or len(lines) - (right or bottom)
    return float(np.abs(lines[place] - lines[place - 1]).mean())


@pytest.mark.parametrize("size", [(2048, 16), (16, 2048), (2048, 17), (1500, 20)], ids=str)
def test_a_picture_however_narrow_is_redrawn(engine, size):
    noisy = Image.effect_noise(size, 60).convert("RGB")
    box = (0, 0, size[0] // 2, size[1]) if size[0] > size[1] else (0, 0, size[0], size[1] // 2)
    for whole in (box, (0, 0, *size)):
        made = engine.submit(redraw(noisy, whole, width=64, height=64)).result().image
        assert made.size == size
        assert (pixels(made.crop(whole)) != pixels(noisy.crop(whole))).any()
        kept = np.ones((size[1], size[0]), bool)
        kept[whole[1] : whole[3], whole[0] : whole[2]] = False
        assert (pixels(made)[kept] == pixels(noisy)[kept]).all()


@pytest.mark.parametrize(
    ("size", "box", "changes"),
    [
        ((256, 256), (40, 60, 120, 140), {}),
        ((256, 256), (0, 0, 50, 100), {"guidance_scale": 1.0}),
        ((200, 150), (150, 20, 190, 140), {"width": 96, "height": 128}),
        ((90, 240), (20, 20, 60, 230), {"strength": 1.0}),
    ],
    ids=str,
)
def test_a_redraw_is_the_inpaint_pipelines_with_a_cropped_mask(engine, pipeline, size, box, changes):
    request = redraw(scene(size), box, **changes)
    mask = Image.new("L", size)
    mask.paste(255, box)
    expected = diffusers_picture(
        like(QwenImageInpaintPipeline, pipeline),
        request,
        image=request.images[0],
        mask_image=mask,
        strength=request.strength,
        padding_mask_crop=32,
    )
    made = engine.submit(request).result().image
    inside = np.asarray(mask) > 0
    assert made.size == size
    assert (pixels(made)[~inside] == pixels(request.images[0])[~inside]).all()
    assert (pixels(made)[inside] != pixels(request.images[0])[inside]).any()
    assert np.abs(pixels(made) - pixels(expected)).max() <= 1


def test_both_share_batches_with_everything_else_and_change_nothing(engine, watch):
    def rows() -> list[Request]:
        small = scene().resize((64, 128))
        return [order(steps=4), outpaint(small, (64, 0, 0, 0)), redraw(scene((300, 200)), (50, 50, 120, 130))]

    alone = [engine.submit(request).result() for request in rows()]
    watch.reset()
    together = rows()
    watch.at(1, lambda: [engine.submit(request) for request in together])
    engine.submit(order(steps=1, width=80)).result()
    for request, picture in zip(together, alone, strict=True):
        assert difference(request.ticket.future.result(timeout=120), picture) <= 1
    assert 3 in watch.rows("denoise")
