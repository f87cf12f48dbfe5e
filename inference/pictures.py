"""Input pictures: which are accepted, at what size a model sees them, and what of them is kept in the result.

Loads no torch. Requests are batched by these sizes, so they are known before any work.
"""

from __future__ import annotations

import math
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from PIL.Image import Resampling

from inference.errors import InvalidRequest
from inference.request import TILE, Operation, Request
from inference.state import Grid

if TYPE_CHECKING:
    import numpy.typing as npt

    from inference.card import ModelCard

# marks a picture for the text encoder; in a prompt it would stand for one that is not there
PLACEHOLDER = "<|image_pad|>"
_PLACEHOLDERS = (PLACEHOLDER, "<|video_pad|>")
# the sides of a condition picture are multiples of this, in pixels
_MULTIPLE = 32
# the autoencoder makes one latent of each cell of 8 by 8 pixels
_CELL = TILE // 2


def check(request: Request, card: ModelCard) -> None:
    """Check that a request's operation and pictures fit each other and the model, and load the pictures' pixels.

    Raises InvalidRequest, with the field's name, if they do not.
    """
    if request.operation not in card.operations:
        raise InvalidRequest("operation", f"{card.name} can {', '.join(card.operations)}, not {request.operation}")
    _check_count(request, card)
    for image in request.images:
        if not all(TILE <= side <= card.max_image_side for side in image.size):
            raise InvalidRequest(
                "images", f"an image must have sides from {TILE} to {card.max_image_side} pixels, not {_size(image)}"
            )
        _check_readable("images", image, "RGB")
    _check_strength(request)
    _check_mask(request)
    _check_extend(request)
    _check_box(request)
    if request.operation == Operation.EDIT:
        for name, placeholder in product(("prompt", "negative_prompt"), _PLACEHOLDERS):
            if placeholder in getattr(request, name):
                raise InvalidRequest(name, f"{name} must not contain {placeholder}")


def fit(size: tuple[int, int], area: int) -> tuple[int, int]:
    """Return a width and height of about `area` pixels in the proportions of `size`, rounded as in diffusers' edits."""
    width = math.sqrt(area * size[0] / size[1])
    height = width * size[1] / size[0]
    return _rounded(width), _rounded(height)


def condition_grids(request: Request, card: ModelCard) -> tuple[Grid, ...]:
    """Return height and width in image tokens of each picture that joins the sequence as condition: an edit's."""
    if request.operation != Operation.EDIT:
        return ()
    area = card.condition_area or request.width * request.height
    sizes = [fit(image.size, area) for image in request.images]
    return tuple((height // TILE, width // TILE) for width, height in sizes)


def resize(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Resize a picture to width and height in pixels, as RGB; alpha is dropped."""
    return image.convert("RGB").resize(size, Resampling.LANCZOS)


def cells(mask: Image.Image, size: tuple[int, int]) -> npt.NDArray[np.float32]:
    """Return [height / 8, width / 8], 1 where the latents of a picture of `size` are repainted, 0 where kept."""
    return (np.asarray(_binary(mask, size))[::_CELL, ::_CELL] > 0).astype(np.float32)


def composite(painted: Image.Image, original: Image.Image, mask: Image.Image) -> Image.Image:
    """Take `painted` where the mask is white, and elsewhere the original, resized if it has another size."""
    return Image.composite(painted, resize(original, painted.size), _binary(mask, painted.size))


def _binary(mask: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Resize a mask, then make it black and white, white from half on, as in diffusers."""
    grey = mask.resize(size, Resampling.LANCZOS).convert("L")
    return grey.point([0] * 128 + [255] * 128)


def _rounded(side: float) -> int:
    return max(_MULTIPLE, round(side / _MULTIPLE) * _MULTIPLE)


def _check_count(request: Request, card: ModelCard) -> None:
    counts = {Operation.GENERATE: range(1), Operation.EDIT: range(1, card.max_images + 1)}
    allowed = counts.get(Operation(request.operation), range(1, 2))
    if len(request.images) not in allowed:
        wanted = " to ".join(str(count) for count in sorted({allowed[0], allowed[-1]}))
        raise InvalidRequest("images", f"images must be {wanted} for {request.operation}, not {len(request.images)}")


def _check_readable(name: str, image: Image.Image, mode: str) -> None:
    try:
        image.convert(mode)
    except (OSError, SyntaxError, ValueError) as error:
        raise InvalidRequest(name, f"{name} has a picture that cannot be read: {error}") from error


def _check_strength(request: Request) -> None:
    if request.operation in (Operation.GENERATE, Operation.EDIT):
        if request.strength != 1:
            raise InvalidRequest("strength", f"{request.operation} takes no strength")
    elif not 0 < request.strength <= 1:
        raise InvalidRequest("strength", f"strength must be above 0 and at most 1, not {request.strength}")
    elif request.steps_due == 0:
        raise InvalidRequest("strength", f"strength must be greater: of {request.steps} steps it leaves none to run")


def _check_mask(request: Request) -> None:
    if request.operation != Operation.INPAINT:
        if request.mask is not None:
            raise InvalidRequest("mask", f"{request.operation} takes no mask")
        return
    if request.mask is None:
        raise InvalidRequest("mask", "inpaint takes a mask, white where the picture is repainted")
    if request.mask.size != request.images[0].size:
        raise InvalidRequest(
            "mask", f"mask must have the size of its image, {_size(request.images[0])}, not {_size(request.mask)}"
        )
    _check_readable("mask", request.mask, "L")
    if not cells(request.mask, (request.width, request.height)).any():
        raise InvalidRequest("mask", "mask has no white, so nothing would be repainted")


def _check_extend(request: Request) -> None:
    left, top, right, bottom = request.extend
    if request.operation != Operation.OUTPAINT:
        if any(request.extend):
            raise InvalidRequest("extend", f"{request.operation} takes no extend")
        return
    if not any(request.extend) or any(margin < 0 or margin % TILE for margin in request.extend):
        raise InvalidRequest("extend", f"extend must be multiples of {TILE}, not all of them 0")
    if request.width - left - right < TILE or request.height - top - bottom < TILE:
        raise InvalidRequest("extend", f"extend must leave {TILE} pixels of width and height to the picture")


def _check_box(request: Request) -> None:
    if request.operation != Operation.REDRAW:
        if request.box is not None:
            raise InvalidRequest("box", f"{request.operation} takes no box")
        return
    if request.box is None:
        raise InvalidRequest("box", "redraw takes a box: left, top, right, bottom")
    left, top, right, bottom = request.box
    width, height = request.images[0].size
    if not (0 <= left <= right - TILE and right <= width and 0 <= top <= bottom - TILE and bottom <= height):
        raise InvalidRequest(
            "box", f"box must lie in its image, {_size(request.images[0])}, with sides of {TILE} pixels at least"
        )


def _size(image: Image.Image) -> str:
    return f"{image.width} by {image.height}"
