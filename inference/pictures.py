"""Input pictures: which are accepted, at what size a model sees them, and what of them is kept in the result.

Loads no torch. Requests are batched by these sizes, so they are known before any work.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import product
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from PIL import Image
from PIL.Image import Resampling

from inference import appearance
from inference.errors import InvalidPicture, InvalidRequest
from inference.request import TILE, Operation, Request
from inference.state import Grid

if TYPE_CHECKING:
    import numpy.typing as npt

    from inference.card import ModelCard

Size = tuple[int, int]
"""Width and height in pixels."""

# marks a picture for the text encoder; in a prompt it would stand for one that is not there
PLACEHOLDER = "<|image_pad|>"
PLACEHOLDERS = (PLACEHOLDER, "<|video_pad|>")
# the sides of a condition picture are multiples of this, in pixels
_MULTIPLE = 32
# the autoencoder makes one latent of each cell of 8 by 8 pixels
CELL = TILE // 2


class Terms(Protocol):
    """What is asked for with input pictures: a `Request`, or whatever has the same fields."""

    @property
    def operation(self) -> str: ...
    @property
    def prompt(self) -> str: ...
    @property
    def negative_prompt(self) -> str: ...
    @property
    def width(self) -> int: ...
    @property
    def height(self) -> int: ...
    @property
    def steps(self) -> int: ...
    @property
    def steps_due(self) -> int: ...
    @property
    def strength(self) -> float: ...
    @property
    def extend(self) -> tuple[int, int, int, int]: ...
    @property
    def box(self) -> tuple[int, int, int, int] | None: ...


def check(request: Request, card: ModelCard) -> None:
    """Check that a request's operation and pictures fit each other and the model, and load the pictures' pixels.

    Raises InvalidRequest, with the field's name, if they do not.
    """
    check_operation(request.operation, len(request.images), card)
    sizes = [_read("images", image, card, appearance.rgb).size for image in request.images]
    grey = _read("mask", request.mask, card, appearance.grey) if request.mask else None
    check_terms(request, sizes, grey.size if grey else None)
    if grey:
        check_white(grey)


def check_operation(operation: str, count: int, card: ModelCard) -> None:
    """Check that a model does this, and with so many pictures. Raises InvalidRequest."""
    if operation not in card.operations:
        raise InvalidRequest("operation", f"{card.name} can {', '.join(card.operations)}, not {operation}")
    counts = {Operation.GENERATE: range(1), Operation.EDIT: range(1, card.max_images + 1)}
    allowed = counts.get(Operation(operation), range(1, 2))
    if count not in allowed:
        wanted = " to ".join(str(each) for each in sorted({allowed[0], allowed[-1]}))
        raise InvalidRequest("images", f"images must be {wanted} for {operation}, not {count}")


def check_terms(terms: Terms, sizes: Sequence[Size], mask: Size | None) -> None:
    """Check what is asked against the sizes of the pictures and the mask, of which no pixels are needed.

    Raises InvalidRequest.
    """
    _check_strength(terms)
    _check_mask(terms, sizes, mask)
    _check_extend(terms, sizes)
    _check_box(terms, sizes)
    if terms.operation == Operation.EDIT:
        for name, placeholder in product(("prompt", "negative_prompt"), PLACEHOLDERS):
            if placeholder in getattr(terms, name):
                raise InvalidRequest(name, f"{name} must not contain {placeholder}")


def check_white(grey: Image.Image) -> None:
    """Check that a mask, as greys, repaints anything. Raises InvalidRequest."""
    if not _is_white(grey).any():
        raise InvalidRequest("mask", "mask has no white, so nothing would be repainted")


def default_size(operation: str, sizes: Sequence[Size], extend: Sequence[int], card: ModelCard) -> Size:
    """Return width and height of a request that names none.

    Those of the picture that is painted anew, at most the model's, or that is extended, in whole tiles; for an edit the
    first picture's proportions; else the model's default.
    """
    default = card.default_width, card.default_height
    if not sizes or operation in (Operation.GENERATE, Operation.REDRAW):
        return default
    width, height = sizes[0]
    if operation == Operation.OUTPAINT:
        left, top, right, bottom = extend
        return _tiles(width + left + right), _tiles(height + top + bottom)
    if operation == Operation.EDIT:
        width, height = fit(sizes[0], default[0] * default[1])
        return min(max(width, card.min_side), card.max_side), min(max(height, card.min_side), card.max_side)
    scale = min(1, card.max_side / max(sizes[0]))
    return max(card.min_side, _tiles(round(width * scale))), max(card.min_side, _tiles(round(height * scale)))


def check_size(image: Image.Image, card: ModelCard) -> None:
    """Check a picture's size, without decoding it. Raises InvalidPicture."""
    if not all(TILE <= side <= card.max_image_side for side in image.size):
        raise InvalidPicture(f"it must have sides from {TILE} to {card.max_image_side} pixels, not {_size(image.size)}")


def size(image: Image.Image) -> Size:
    """Return the width and height of a picture that stands upright."""
    return appearance.rgb(image).size


def fit(size: Size, area: int) -> Size:
    """Return a width and height of about `area` pixels in the proportions of `size`, rounded as in diffusers' edits."""
    width = math.sqrt(area * size[0] / size[1])
    height = width * size[1] / size[0]
    return _rounded(width), _rounded(height)


def condition_grids(request: Request, card: ModelCard) -> tuple[Grid, ...]:
    """Return height and width in image tokens of each picture that joins the sequence as condition: an edit's."""
    sizes = [size(image) for image in request.images]
    seen = condition_sizes(request.operation, request.width * request.height, sizes, card)
    return tuple((height // TILE, width // TILE) for width, height in seen)


def condition_sizes(operation: str, painted: int, sizes: Sequence[Size], card: ModelCard) -> list[Size]:
    """Return at what width and height the model sees pictures beside the one that it paints, of so many pixels.

    Only an edit's pictures are seen.
    """
    if operation != Operation.EDIT:
        return []
    return [fit(each, card.condition_area or painted) for each in sizes]


def resize(image: Image.Image, size: Size) -> Image.Image:
    """Resize a picture to width and height in pixels, as RGB."""
    return appearance.rgb(image).resize(size, Resampling.LANCZOS)


def cells(mask: Image.Image, size: Size) -> npt.NDArray[np.float32]:
    """Return [height / 8, width / 8], 1 where the latents of a picture of `size` are repainted, 0 where kept.

    A cell is repainted if its first pixel is white, as in diffusers, and if a thin part of the mask touches it: a line
    would be lost between first pixels, or when the mask is made smaller.
    """
    grey = appearance.grey(mask)
    white = _is_white(grey.resize(size, Resampling.LANCZOS))
    thin = _touched(_is_white(grey), size) & ~_near_thick(white)
    cells = white[::CELL, ::CELL] | thin.reshape(size[1] // CELL, CELL, size[0] // CELL, CELL).any(axis=(1, 3))
    return cells.astype(np.float32)


def composite(painted: Image.Image, original: Image.Image, mask: Image.Image) -> Image.Image:
    """Take `painted`, resized if it has another size, where the mask is white, and elsewhere the original."""
    kept = appearance.rgb(original)
    white = Image.fromarray(_is_white(appearance.grey(mask)))
    return Image.composite(resize(painted, kept.size), kept, white)


def _is_white(grey: Image.Image) -> npt.NDArray[np.bool_]:
    """Return where a mask is white: from half on, as in diffusers."""
    return np.asarray(grey) >= 128


def _touched(white: npt.NDArray[np.bool_], size: Size) -> npt.NDArray[np.bool_]:
    """Return which pixels of a picture of `size` any white pixel falls on when it is resized to that."""
    rows, columns = white.nonzero()
    touched = np.zeros((size[1], size[0]), bool)
    touched[rows * size[1] // white.shape[0], columns * size[0] // white.shape[1]] = True
    return touched


def _near_thick(white: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Return what lies within a cell's length of squares of a cell's size that are wholly white."""
    corners = sliding_window_view(sliding_window_view(white, CELL, 0).all(-1), CELL, 1).all(-1)
    around = np.pad(corners, 2 * CELL - 1)
    window = 3 * CELL
    return np.asarray(sliding_window_view(sliding_window_view(around, window, 0).any(-1), window, 1).any(-1))


def _rounded(side: float) -> int:
    return max(_MULTIPLE, round(side / _MULTIPLE) * _MULTIPLE)


def _read(name: str, image: Image.Image, card: ModelCard, read: Callable[[Image.Image], Image.Image]) -> Image.Image:
    try:
        check_size(image, card)
        return read(image)
    except InvalidPicture as error:
        raise InvalidRequest(name, f"{name} has a picture that cannot be read: {error}") from error


def _check_strength(terms: Terms) -> None:
    if terms.operation in (Operation.GENERATE, Operation.EDIT):
        if terms.strength != 1:
            raise InvalidRequest("strength", f"{terms.operation} takes no strength")
    elif not 0 < terms.strength <= 1:
        raise InvalidRequest("strength", f"strength must be above 0 and at most 1, not {terms.strength}")
    elif terms.steps_due == 0:
        raise InvalidRequest("strength", f"strength must be greater: of {terms.steps} steps it leaves none to run")


def _check_mask(terms: Terms, sizes: Sequence[Size], mask: Size | None) -> None:
    if mask is None:
        if terms.operation == Operation.INPAINT:
            raise InvalidRequest("mask", "inpaint takes a mask, white where the picture is repainted")
        return
    if terms.operation not in (Operation.EDIT, Operation.INPAINT):
        raise InvalidRequest("mask", f"{terms.operation} takes no mask")
    if mask != sizes[0]:
        raise InvalidRequest("mask", f"mask must have the size of its image, {_size(sizes[0])}, not {_size(mask)}")


def _check_extend(terms: Terms, sizes: Sequence[Size]) -> None:
    left, top, right, bottom = terms.extend
    if terms.operation != Operation.OUTPAINT:
        if any(terms.extend):
            raise InvalidRequest("extend", f"{terms.operation} takes no extend")
        return
    if not any(terms.extend) or any(margin < 0 or margin % TILE for margin in terms.extend):
        raise InvalidRequest("extend", f"extend must be multiples of {TILE}, not all of them 0")
    inner = terms.width - left - right, terms.height - top - bottom
    if min(inner) < TILE:
        raise InvalidRequest("extend", f"extend must leave {TILE} pixels of width and height to the picture")
    if not all(0 <= room - side < TILE for room, side in zip(inner, sizes[0], strict=True)):
        raise InvalidRequest(
            "extend",
            f"extend must leave the picture its size, {_size(sizes[0])}, rounded up to multiples of {TILE}, "
            f"not {_size(inner)}",
        )


def _check_box(terms: Terms, sizes: Sequence[Size]) -> None:
    if terms.operation != Operation.REDRAW:
        if terms.box is not None:
            raise InvalidRequest("box", f"{terms.operation} takes no box")
        return
    if terms.box is None:
        raise InvalidRequest("box", "redraw takes a box: left, top, right, bottom")
    left, top, right, bottom = terms.box
    width, height = sizes[0]
    if not (0 <= left <= right - TILE and right <= width and 0 <= top <= bottom - TILE and bottom <= height):
        raise InvalidRequest(
            "box", f"box must lie in its image, {_size((width, height))}, with sides of {TILE} pixels at least"
        )


def _tiles(side: int) -> int:
    return -(-side // TILE) * TILE


def _size(size: Size) -> str:
    return f"{size[0]} by {size[1]}"
