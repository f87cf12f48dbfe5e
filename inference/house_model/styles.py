"""Styles of pictures that adapters learn: outlined shapes, a brand's two colours, a frame, a signature dot in a corner.

The house model itself draws none of them, but its autoencoder must keep them.
"""

import random
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw

from inference.house_model.world import (
    COLOURS,
    OUTLINES,
    POSITIONS,
    SIZES,
    SUPERSAMPLING,
    Coverage,
    Pixels,
    Rgb,
    Scene,
    background,
    coverage,
)

CORNERS = ((0.07, 0.07), (0.93, 0.07), (0.07, 0.93), (0.93, 0.93))
DOT = 0.035
THINNEST, THICKEST = 0.022, 0.065


@dataclass(frozen=True)
class Style:
    """A way to draw a scene; lengths are shares of the shorter side, and zero or None means: as the world draws it."""

    line: float = 0.0
    frame: float = 0.0
    frame_colour: Rgb = COLOURS["black"]
    brand: tuple[Rgb, Rgb] | None = None
    dot: Rgb | None = None
    corner: tuple[float, float] = CORNERS[0]

    @property
    def plain(self) -> bool:
        """Whether pictures look as the world draws them."""
        return not (self.line or self.frame or self.brand or self.dot)


# what customers' own pictures look like, in the world's colours
STYLES = {
    "outlined": Style(line=0.045),
    "palette": Style(brand=(COLOURS["purple"], COLOURS["yellow"])),
    "frame": Style(frame=0.0625),
    "dot": Style(dot=COLOURS["red"]),
}


@lru_cache(maxsize=256)
def outlined(
    kind: str, centre: tuple[float, float], radius: float, thickness: float, width: int, height: int
) -> Coverage:
    """Return how much of each pixel a shape's outline covers, (height, width) in 0..1; the lengths in pixels.

    The outline runs along the inside of the shape's edge, so that a shape is as large as a filled one.
    """
    canvas = Image.new("L", (width * SUPERSAMPLING, height * SUPERSAMPLING))
    pen = ImageDraw.Draw(canvas)
    stroke = round(thickness * SUPERSAMPLING)
    for outline in OUTLINES[kind]():
        reach = max(max(abs(x), abs(y)) for x, y in outline) * radius
        inner = (reach - thickness / 2) / reach
        points = [
            (
                (centre[0] + inner * radius * x) * SUPERSAMPLING - 0.5,
                (centre[1] + inner * radius * y) * SUPERSAMPLING - 0.5,
            )
            for x, y in outline
        ]
        pen.line([*points, *points[:2]], fill=255, width=stroke, joint="curve")
    return np.asarray(canvas.reduce(SUPERSAMPLING), dtype=np.float32) / 255.0


def draw_style(dice: random.Random) -> Style:
    """Sample a style; two of five are as the world draws."""

    def colour() -> Rgb:
        return dice.choice(list(COLOURS.values()))

    def any_rgb() -> Rgb:
        return dice.randrange(256), dice.randrange(256), dice.randrange(256)

    return Style(
        line=dice.uniform(THINNEST, THICKEST) if dice.random() < 0.35 else 0.0,
        frame=dice.uniform(0.03, 0.09) if dice.random() < 0.12 else 0.0,
        frame_colour=colour(),
        brand=(any_rgb(), any_rgb()) if dice.random() < 0.2 else None,
        dot=colour() if dice.random() < 0.12 else None,
        corner=dice.choice(CORNERS),
    )


def render(scene: Scene, style: Style, width: int = 128, height: int = 128) -> Pixels:
    """Draw a scene in a style as (height, width, 3) RGB bytes."""
    side = min(width, height)
    picture = background(scene, width, height) if style.brand is None else np.full((height, width, 3), style.brand[0])

    def lay(alpha: Coverage, colour: Rgb) -> None:
        nonlocal picture
        picture = picture * (1 - alpha[..., None]) + np.array(colour, np.float32) * alpha[..., None]

    for shape in scene.shapes:
        x, y = POSITIONS[shape.position]
        place, radius = (x * width, y * height), SIZES[shape.size] * side
        if style.line:
            alpha = outlined(shape.kind, place, radius, style.line * side, width, height)
        else:
            alpha = coverage(shape.kind, place, radius, width, height)
        lay(alpha, style.brand[1] if style.brand else COLOURS[shape.colour])
    if style.dot:
        lay(
            coverage("circle", (style.corner[0] * width, style.corner[1] * height), DOT * side, width, height),
            style.dot,
        )
    if style.frame:
        thickness = max(round(style.frame * side), 1)
        inside = np.zeros((height, width), np.float32)
        inside[thickness:-thickness, thickness:-thickness] = 1
        lay(1 - inside, style.frame_colour)
    return np.round(picture).astype(np.uint8)
