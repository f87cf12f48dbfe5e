"""The world the house model draws: flat shapes on a background, as a scene and as a picture.

A scene is the specification; `render` draws it without any randomness, `draw_scene` samples one from a seed. Captions
of a scene are in `captions`; `judge` reads a picture back into a scene.
"""

import math
import random
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

Rgb = tuple[int, int, int]
Pixels = npt.NDArray[np.uint8]
Coverage = npt.NDArray[np.float32]
Outline = list[tuple[float, float]]

COLOURS: dict[str, Rgb] = {
    "red": (220, 40, 40),
    "green": (40, 160, 60),
    "blue": (40, 80, 220),
    "yellow": (245, 215, 50),
    "orange": (245, 140, 30),
    "purple": (140, 60, 180),
    "pink": (250, 150, 190),
    "black": (20, 20, 20),
    "white": (250, 250, 250),
    "gray": (140, 140, 140),
    "cyan": (60, 200, 210),
    "brown": (120, 75, 40),
}
POSITIONS: dict[str, tuple[float, float]] = {
    "center": (0.5, 0.5),
    "left": (0.26, 0.5),
    "right": (0.74, 0.5),
    "top": (0.5, 0.26),
    "bottom": (0.5, 0.74),
    "top left": (0.26, 0.26),
    "top right": (0.74, 0.26),
    "bottom left": (0.26, 0.74),
    "bottom right": (0.74, 0.74),
}
SIZES: dict[str, float] = {"small": 0.13, "medium": 0.19, "large": 0.25}
PATTERNS = ("plain", "striped", "checkered")
PAIRS = (("left", "right"), ("right", "left"), ("top", "bottom"), ("bottom", "top"))
BANDS = 8
SUPERSAMPLING = 4
HELD_OUT_SHARE = 20


@dataclass(frozen=True)
class Shape:
    """One flat shape; all fields are names from this module's tables."""

    kind: str
    colour: str
    position: str = "center"
    size: str = "medium"


@dataclass(frozen=True)
class Scene:
    """Up to two shapes on a background; two shapes sampled together have the positions of one of PAIRS."""

    shapes: tuple[Shape, ...]
    background: str = "white"
    pattern: str = "plain"


def _around(count: int, radii: tuple[float, ...], turn: float = -90.0) -> Outline:
    angles = [math.radians(turn + 360.0 * i / count) for i in range(count)]
    return [
        (radii[i % len(radii)] * math.cos(angle), radii[i % len(radii)] * math.sin(angle))
        for i, angle in enumerate(angles)
    ]


def _heart() -> Outline:
    angles = [2 * math.pi * i / 96 for i in range(96)]
    return [
        (
            16 * math.sin(a) ** 3 / 16.5,
            -(13 * math.cos(a) - 5 * math.cos(2 * a) - 2 * math.cos(3 * a) - math.cos(4 * a) + 2.5) / 16.5,
        )
        for a in angles
    ]


def _cross(arm: float = 1.0, half: float = 0.33) -> Outline:
    quarter = [(half, -arm), (half, -half), (arm, -half)]
    corners: Outline = []
    for _ in range(4):
        corners += quarter
        quarter = [(-y, x) for x, y in quarter]
    return corners


OUTLINES: dict[str, Callable[[], list[Outline]]] = {
    "circle": lambda: [_around(96, (1.0,))],
    "square": lambda: [[(-0.85, -0.85), (0.85, -0.85), (0.85, 0.85), (-0.85, 0.85)]],
    "triangle": lambda: [[(0.0, -0.95), (1.0, 0.8), (-1.0, 0.8)]],
    "star": lambda: [_around(10, (1.03, 0.45))],
    "diamond": lambda: [[(0.0, -1.03), (0.75, 0.0), (0.0, 1.03), (-0.75, 0.0)]],
    "cross": lambda: [_cross()],
    "ring": lambda: [_around(96, (1.0,)), _around(96, (0.55,))],
    "heart": lambda: [_heart()],
}
SHAPES = tuple(OUTLINES)


def second_tone(colour: str) -> Rgb:
    """Return the other tone of a striped or checkered background: darker, or lighter if the colour is dark."""
    rgb = COLOURS[colour]
    if sum(rgb) / 3 < 50:
        red, green, blue = (round(value + 0.22 * (255 - value)) for value in rgb)
    else:
        red, green, blue = (round(0.78 * value) for value in rgb)
    return red, green, blue


@lru_cache(maxsize=512)
def coverage(kind: str, centre: tuple[float, float], radius: float, width: int, height: int) -> Coverage:
    """Return how much of each pixel a shape covers, (height, width) in 0..1; centre and radius in pixels.

    Outlines after the first are holes. Anti-aliased by drawing at four times the size.
    """
    canvas = Image.new("L", (width * SUPERSAMPLING, height * SUPERSAMPLING))
    pen = ImageDraw.Draw(canvas)
    for index, outline in enumerate(OUTLINES[kind]()):
        points = [
            ((centre[0] + radius * x) * SUPERSAMPLING - 0.5, (centre[1] + radius * y) * SUPERSAMPLING - 0.5)
            for x, y in outline
        ]
        pen.polygon(points, fill=0 if index else 255)
    small = canvas.reduce(SUPERSAMPLING)
    return np.asarray(small, dtype=np.float32) / 255.0


def background(scene: Scene, width: int, height: int) -> npt.NDArray[np.float32]:
    """Draw a scene's background alone, (height, width, 3) in 0..255."""
    first, second = (np.array(tone, np.float32) for tone in (COLOURS[scene.background], second_tone(scene.background)))
    columns = np.arange(width) * BANDS // width
    rows = np.arange(height) * BANDS // height
    if scene.pattern == "plain":
        odd = np.zeros((height, width), bool)
    elif scene.pattern == "striped":
        odd = np.broadcast_to(columns % 2 == 1, (height, width))
    else:
        odd = (columns[None, :] + rows[:, None]) % 2 == 1
    return np.where(odd[..., None], second, first)


def render(scene: Scene, width: int = 128, height: int = 128) -> Pixels:
    """Draw a scene as (height, width, 3) RGB bytes; later shapes lie over earlier ones."""
    picture = background(scene, width, height)
    for shape in scene.shapes:
        x, y = POSITIONS[shape.position]
        radius = SIZES[shape.size] * min(width, height)
        alpha = coverage(shape.kind, (x * width, y * height), radius, width, height)[..., None]
        picture = picture * (1 - alpha) + np.array(COLOURS[shape.colour], np.float32) * alpha
    return np.round(picture).astype(np.uint8)


def is_held_out(scene: Scene) -> bool:
    """Return whether a shape's (colour, kind, position, background) is in the twentieth kept out of training."""
    return any(
        zlib.crc32(f"{shape.colour}|{shape.kind}|{shape.position}|{scene.background}".encode()) % HELD_OUT_SHARE == 0
        for shape in scene.shapes
    )


def _any_scene(dice: random.Random, pair_share: float) -> Scene:
    background = dice.choice(list(COLOURS))
    colours = [colour for colour in COLOURS if colour != background]
    pattern = dice.choices(PATTERNS, (70, 15, 15))[0]
    if dice.random() < pair_share:
        positions = dice.choice(PAIRS)
        sizes = ("small", "medium")
    else:
        positions = (dice.choice(list(POSITIONS)),)  # type: ignore[assignment]
        sizes = ("small", "medium", "large")  # type: ignore[assignment]
    shapes = tuple(
        Shape(dice.choice(SHAPES), dice.choice(colours), position, dice.choice(("medium", *sizes)))
        for position in positions
    )
    return Scene(shapes, background, pattern)


def draw_scene(dice: random.Random, *, held_out: bool = False, pair_share: float = 0.25) -> Scene:
    """Sample a scene from the training split, or from the held-out split."""
    while True:
        scene = _any_scene(dice, pair_share)
        if is_held_out(scene) is held_out:
            return scene


def pictures(count: int = 80) -> Iterator[Image.Image]:
    """Draw the same pictures of this world each time, 128 pixels a side."""
    dice = random.Random(19)
    for _ in range(count):
        yield Image.fromarray(render(draw_scene(dice)))
