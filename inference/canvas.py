"""How an input picture fits into what the model paints: what the model starts from, what it repaints, and how that is
put together with the original, whose other pixels are kept.

The model paints whole tiles. A picture that is to be painted at its own size lies on a canvas of whole tiles, whose
rest repeats its edge and is cut away at the end. Only a picture that is to be painted at another size is resized, and
what was painted is resized back: the result has the picture's size, and its pixels wherever nothing was painted.

Outpainting is inpainting of the margins around a picture. A redraw is inpainting of a box, cut out with its
surroundings and enlarged to the size that the model paints at, like `padding_mask_crop` in diffusers' pipeline.
"""

import math

import numpy as np
from diffusers.image_processor import VaeImageProcessor
from PIL import Image

from inference import appearance, pictures
from inference.request import TILE, Operation, Request

# pixels of the original kept around a redrawn box
SURROUNDINGS = 32

_processor = VaeImageProcessor(vae_scale_factor=TILE)


def source(request: Request) -> Image.Image:
    """Return the picture that img2img, inpaint, outpaint and redraw start from, not yet resized to the request."""
    image = appearance.rgb(request.images[0])
    if request.operation == Operation.REDRAW:
        return _enlarged(image, request)
    if not _keeps_size(request, image.size):
        return image
    left, top, right, bottom = _place(request, image.size)
    # the rest is painted over or cut away; repeating the edge keeps a false contour out of the latents beside it
    rest = ((top, request.height - bottom), (left, request.width - right), (0, 0))
    return Image.fromarray(np.pad(np.asarray(image), rest, mode="edge"))


def mask(request: Request) -> Image.Image | None:
    """Return a mask, white where the request repaints; None if it repaints everything."""
    if request.operation == Operation.OUTPAINT:
        left, top, right, bottom = _place(request, pictures.size(request.images[0]))
        white = Image.new("L", (request.width, request.height), 255)
        # a cell that the picture fills only in part is repainted
        white.paste(0, (left, top, right // pictures.CELL * pictures.CELL, bottom // pictures.CELL * pictures.CELL))
        return white
    if request.operation == Operation.REDRAW:
        return _enlarged(_box(request), request).convert("L")
    if request.mask is None:
        return None
    grey = appearance.grey(request.mask)
    return grey.crop((0, 0, request.width, request.height)) if _keeps_size(request, grey.size) else grey


def finish(request: Request, painted: Image.Image) -> Image.Image:
    """Put together the result from what the model painted and the original."""
    if request.operation == Operation.OUTPAINT:
        return _with_margins(request, painted)
    if request.operation == Operation.REDRAW:
        left, top, right, bottom = region = _region(request)
        canvas = appearance.rgb(request.images[0]).copy()
        canvas.paste(_processor.resize(painted, bottom - top, right - left, resize_mode="crop"), region)
        return pictures.composite(canvas, request.images[0], _box(request))
    if request.mask is None:
        return painted
    size = pictures.size(request.images[0])
    shown = painted.crop((0, 0, *size)) if _keeps_size(request, size) else painted
    return pictures.composite(shown, request.images[0], request.mask)


def _with_margins(request: Request, painted: Image.Image) -> Image.Image:
    original = appearance.rgb(request.images[0])
    left, top, right, bottom = _place(request, original.size)
    painted.paste(original, (left, top))
    width, height = right + request.extend[2], bottom + request.extend[3]
    return painted.crop((0, 0, min(width, painted.width), min(height, painted.height)))


def _keeps_size(request: Request, size: tuple[int, int]) -> bool:
    """Whether a picture of `size` lies on the canvas as it is: an outpainting's does, and one that just fits on it."""
    rest = request.width - size[0], request.height - size[1]
    fits = request.operation == Operation.INPAINT and all(0 <= pixels < TILE for pixels in rest)
    return request.operation == Operation.OUTPAINT or fits


def _place(request: Request, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return where on the canvas a picture of `size` lies: left, top, right, bottom."""
    left, top, _, _ = request.extend
    return left, top, left + size[0], top + size[1]


def _box(request: Request) -> Image.Image:
    assert request.box is not None
    white = Image.new("L", pictures.size(request.images[0]))
    white.paste(255, request.box)
    return white


def _region(request: Request) -> tuple[int, int, int, int]:
    """Return the box with its surroundings, in the request's proportions as far as the picture allows."""
    left, top, right, bottom = VaeImageProcessor.get_crop_region(
        _box(request), request.width, request.height, pad=SURROUNDINGS
    )
    return left, top, right, bottom


def _enlarged(image: Image.Image, request: Request) -> Image.Image:
    cut = image.crop(_region(request))
    # a long and narrow picture is at least one pixel wide when it has shrunk to the request's length
    least = math.ceil(cut.height / request.height), math.ceil(cut.width / request.width)
    if least[0] > cut.width or least[1] > cut.height:
        cut = cut.resize((max(cut.width, least[0]), max(cut.height, least[1])))
    enlarged: Image.Image = _processor.resize(cut, request.height, request.width, resize_mode="fill")
    return enlarged
