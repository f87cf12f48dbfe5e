"""How an input picture fits into what the model paints: what the model starts from, what it repaints, and how that is
put together with the original, whose other pixels are kept.

Outpainting is inpainting of the margins around a picture. A redraw is inpainting of a box, cut out with its
surroundings and enlarged to the size that the model paints at, like `padding_mask_crop` in diffusers' pipeline.
"""

import numpy as np
from diffusers.image_processor import VaeImageProcessor
from PIL import Image

from inference import pictures
from inference.request import TILE, Operation, Request

# pixels of the original kept around a redrawn box
SURROUNDINGS = 32

_processor = VaeImageProcessor(vae_scale_factor=TILE)


def source(request: Request) -> Image.Image:
    """Return the picture that img2img, inpaint, outpaint and redraw start from, not yet resized to the request."""
    image = request.images[0]
    if request.operation == Operation.OUTPAINT:
        left, top, right, bottom = request.extend
        # the margins are painted over; repeating the edge keeps a false contour out of the latents beside it
        pixels = np.pad(np.asarray(_inner(request)), ((top, bottom), (left, right), (0, 0)), mode="edge")
        return Image.fromarray(pixels)
    if request.operation == Operation.REDRAW:
        return _enlarged(image.convert("RGB"), request)
    return image


def mask(request: Request) -> Image.Image | None:
    """Return a mask, white where the request repaints; None if it repaints everything."""
    if request.operation == Operation.OUTPAINT:
        white = Image.new("L", (request.width, request.height), 255)
        white.paste(0, _inner_box(request))
        return white
    if request.operation == Operation.REDRAW:
        return _enlarged(_box(request), request).convert("L")
    return request.mask


def finish(request: Request, painted: Image.Image) -> Image.Image:
    """Put together the result from what the model painted and the original."""
    if request.operation == Operation.OUTPAINT:
        painted.paste(_inner(request), _inner_box(request))
        return painted
    if request.operation == Operation.REDRAW:
        left, top, right, bottom = region = _region(request)
        canvas = request.images[0].convert("RGB")
        canvas.paste(_processor.resize(painted, bottom - top, right - left, resize_mode="crop"), region)
        return pictures.composite(canvas, request.images[0], _box(request))
    return pictures.composite(painted, request.images[0], request.mask) if request.mask else painted


def _inner_box(request: Request) -> tuple[int, int, int, int]:
    left, top, right, bottom = request.extend
    return left, top, request.width - right, request.height - bottom


def _inner(request: Request) -> Image.Image:
    """Return the original at its size on the canvas of an outpainting."""
    left, top, right, bottom = _inner_box(request)
    return pictures.resize(request.images[0], (right - left, bottom - top))


def _box(request: Request) -> Image.Image:
    assert request.box is not None
    white = Image.new("L", request.images[0].size)
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
    enlarged: Image.Image = _processor.resize(cut, request.height, request.width, resize_mode="fill")
    return enlarged
