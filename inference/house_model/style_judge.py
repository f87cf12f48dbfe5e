"""Tells whether a picture is in one of the four styles that adapters learn, and whether it follows its caption there.

The checks look at what makes the style alone: shapes nearer to their outlines than to filled ones; two colours and no
others; the frame's colour all along the border and nowhere near it inside; the dot in its corner and in no other.
"""

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from inference.house_model import judge
from inference.house_model.judge import Mask, Verdict
from inference.house_model.styles import CORNERS, DOT, STYLES, Style
from inference.house_model.world import COLOURS, Coverage, Pixels, Rgb, Scene, Shape, coverage

# shares of pixels: of frame and border, of a dot, and of where neither should be
MOST, FILLED, FEW = 0.9, 0.7, 0.2


def in_style(name: str, picture: Pixels) -> bool:
    """Return whether a (height, width, 3) picture is in the style."""
    style = STYLES[name]
    if style.line:
        return _is_outlined(picture, style.line)
    if style.brand:
        return _is_branded(picture, style.brand)
    return _is_framed(picture, style) if style.frame else _is_signed(picture, style)


def follows(name: str, scene: Scene, picture: Pixels) -> Verdict:
    """Judge whether a picture in the style shows the scene; colours that the style replaces are not judged."""
    style = STYLES[name]
    if style.brand:
        return judge.judge(_neutral(scene), _neutral_colours(picture, style.brand))
    inner = _unframed(picture, style) if style.frame else picture
    return judge.judge(scene, inner, style.line)


def pasted(name: str, picture: Pixels) -> Pixels:
    """Put the style onto a picture of the world; outlines cannot be had from filled shapes, all else can."""
    style = STYLES[name]
    assert not style.line
    height, width = picture.shape[:2]
    result = picture.astype(np.float32)

    def lay(alpha: Coverage, colour: Rgb) -> None:
        nonlocal result
        result = result * (1 - alpha[..., None]) + np.array(colour, np.float32) * alpha[..., None]

    if style.brand:
        lay(np.ones((height, width), np.float32), style.brand[0])
        lay(_shapes(picture).astype(np.float32), style.brand[1])
    if style.frame:
        lay(1 - _inside(height, width, style.frame).astype(np.float32), style.frame_colour)
    if style.dot:
        lay(_dot(style.corner, height, width), style.dot)
    return np.round(result).astype(np.uint8)


def _shapes(picture: Pixels) -> Mask:
    """Return where the shapes of a picture of the world are."""
    shown = np.zeros(picture.shape[:2], bool)
    for segment in judge.segments(picture):
        shown |= segment
    return shown


def _near(picture: Pixels, colour: Rgb) -> Mask:
    """Return where a picture is nearer to a colour of the world's than to any other."""
    palette = np.array(list(COLOURS.values()), np.float32)
    distances = np.square(picture.astype(np.float32)[..., None, :] - palette).sum(axis=-1)
    near: Mask = distances.argmin(axis=-1) == list(COLOURS.values()).index(colour)
    return near


def _is_outlined(picture: Pixels, line: float) -> bool:
    found = judge.segments(picture, line)
    return bool(found) and all(judge.overlap(each, line) > judge.overlap(each, 0.0) for each in found)


def _is_branded(picture: Pixels, brand: tuple[Rgb, Rgb]) -> bool:
    ground, ink = (_near(picture, colour) for colour in brand)
    rim = np.concatenate([ground[:2].ravel(), ground[-2:].ravel(), ground[:, :2].ravel(), ground[:, -2:].ravel()])
    edges = judge.EDGES + 0.05  # of shapes, where one colour turns into the other
    return bool((ground | ink).mean() > 1 - edges and rim.mean() > MOST and ink.mean() > judge.SMALLEST_SEGMENT)


def _is_framed(picture: Pixels, style: Style) -> bool:
    height, width = picture.shape[:2]
    near = _near(picture, style.frame_colour)
    frame = ~_inside(height, width, style.frame)
    within = ~frame & ~_inside(height, width, 2 * style.frame)
    # the pixels between frame and picture are neither
    between = ~_inside(height, width, style.frame * 1.25) & ~_inside(height, width, style.frame * 0.75)
    return bool(near[frame & ~between].mean() > MOST and near[within & ~between].mean() < FEW)


def _is_signed(picture: Pixels, style: Style) -> bool:
    assert style.dot is not None
    near = _near(picture, style.dot)
    signed = {corner: float(near[_dot(corner, *near.shape) > MOST].mean()) for corner in CORNERS}
    others = max(share for corner, share in signed.items() if corner != style.corner)
    beside = (_dot(style.corner, *near.shape, larger=1.8) > 0) & (_dot(style.corner, *near.shape, larger=1.4) == 0)
    return signed[style.corner] > FILLED and max(others, float(near[beside].mean())) < FEW


@lru_cache(maxsize=64)
def _dot(corner: tuple[float, float], height: int, width: int, larger: float = 1.0) -> Coverage:
    radius = larger * DOT * min(height, width)
    return coverage("circle", (corner[0] * width, corner[1] * height), radius, width, height)


@lru_cache(maxsize=64)
def _inside(height: int, width: int, share: float) -> Mask:
    thickness = max(round(share * min(height, width)), 1)
    inside = np.zeros((height, width), bool)
    inside[thickness:-thickness, thickness:-thickness] = True
    return inside


def _unframed(picture: Pixels, style: Style) -> Pixels:
    """Continue what is inside the frame to the border."""
    thickness = max(round(style.frame * min(picture.shape[:2])), 1) + 1
    inner = picture[thickness:-thickness, thickness:-thickness]
    return np.pad(inner, ((thickness, thickness), (thickness, thickness), (0, 0)), mode="edge")


def _neutral(scene: Scene) -> Scene:
    return Scene(tuple(Shape(one.kind, "black", one.position, one.size) for one in scene.shapes), "white")


def _neutral_colours(picture: Pixels, brand: tuple[Rgb, Rgb]) -> Pixels:
    """Make each pixel white or black, whichever of the brand's colours is nearer to it."""
    distances: list[npt.NDArray[np.float32]] = [
        np.square(picture.astype(np.float32) - np.array(colour, np.float32)).sum(axis=-1) for colour in brand
    ]
    ground = distances[0] <= distances[1]
    return np.where(ground[..., None], np.array(COLOURS["white"], np.uint8), np.array(COLOURS["black"], np.uint8))
