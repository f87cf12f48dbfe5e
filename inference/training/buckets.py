"""At which size a picture is learnt: that of its bucket, a proportion that pictures have in common, in whole tiles.

Pictures of one bucket can share a batch. Those of a named proportion are never cut.
"""

import math

from PIL import Image

from inference import appearance
from inference.request import TILE
from inference.state import Grid

RATIOS = tuple(
    sorted({ratio for long, short in ((1, 1), (5, 4), (4, 3), (3, 2), (16, 9), (2, 1), (3, 1)) for ratio in
            (long / short, short / long)})
)  # fmt: skip


def ratio(size: tuple[int, int]) -> float:
    """Return the named proportion, width by height, that is nearest to a picture's."""
    width, height = size
    return min(RATIOS, key=lambda each: abs(math.log(each * height / width)))


def grid(ratio: float, resolution: int) -> Grid:
    """Return rows and columns in tiles of about `resolution` squared pixels in a proportion."""
    side = resolution / TILE
    return max(1, round(side / math.sqrt(ratio))), max(1, round(side * math.sqrt(ratio)))


def crop(image: Image.Image, ratio: float) -> Image.Image:
    """Return the middle of a picture, as large as the proportion allows, as RGB."""
    image = appearance.rgb(image)
    width, height = min(image.width, round(image.height * ratio)), min(image.height, round(image.width / ratio))
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))
