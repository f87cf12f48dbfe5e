"""Reads a picture back into a scene, and says which parts of a wanted scene it shows.

Each pixel is assigned to its nearest palette colour. The background is the majority on the border, its two tones
counted as one; the rest is split into segments. A segment's colour is its majority, its shape the template with the
largest overlap, its position the nearest named one. Size and pattern are not judged.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from PIL import Image

from inference.house_model.styles import outlined
from inference.house_model.world import (
    COLOURS,
    POSITIONS,
    SHAPES,
    SIZES,
    Pixels,
    Scene,
    Shape,
    coverage,
    second_tone,
)

Mask = npt.NDArray[np.bool_]
Labels = npt.NDArray[np.int64]

NAMES = tuple(COLOURS)
TONES = np.array([*COLOURS.values(), *(second_tone(name) for name in NAMES)], np.float32)
TEMPLATE = 40
# a pixel's distance to its nearest tone in RGB, the share of pixels on edges, and a shape's overlap with its template
NEAR, EDGES, ALIKE = 40.0, 0.05, 0.7
SMALLEST_SEGMENT = 0.012  # of the square of the shorter side; the smallest shape drawn covers 0.02


@dataclass(frozen=True)
class Verdict:
    """Which parts of a scene a picture shows correctly."""

    background: bool
    colour: bool
    shape: bool
    position: bool

    @property
    def followed(self) -> bool:
        return self.background and self.colour and self.shape and self.position


def _distances(picture: Pixels, tones: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    difference = picture.astype(np.float32)[..., None, :] - tones
    squared: npt.NDArray[np.float32] = np.square(difference).sum(axis=-1)
    return squared


def _background(picture: Pixels) -> int:
    rim = np.concatenate([picture[:2].reshape(-1, 3), picture[-2:].reshape(-1, 3)])
    rim = np.concatenate([rim, picture[:, :2].reshape(-1, 3), picture[:, -2:].reshape(-1, 3)])
    nearest = _distances(rim, TONES).argmin(axis=-1)
    # a second tone resembles the first tone of other colours, so a colour counts only if its first tone shows
    first = np.bincount(nearest[nearest < len(NAMES)], minlength=len(NAMES))
    both = np.bincount(nearest % len(NAMES), minlength=len(NAMES))
    return int((both * (first > 0.2 * len(rim))).argmax() if (first > 0.2 * len(rim)).any() else both.argmax())


def _segments(mask: Mask, smallest: float) -> list[Mask]:
    """Find connected parts (four neighbours), largest first, by spreading labels until none changes."""
    labels = np.where(mask, np.arange(1, mask.size + 1).reshape(mask.shape), 0)
    while True:
        spread = labels.copy()
        spread[1:] = np.maximum(spread[1:], labels[:-1])
        spread[:-1] = np.maximum(spread[:-1], labels[1:])
        spread[:, 1:] = np.maximum(spread[:, 1:], labels[:, :-1])
        spread[:, :-1] = np.maximum(spread[:, :-1], labels[:, 1:])
        spread *= mask
        if np.array_equal(spread, labels):
            break
        labels = spread
    names, counts = np.unique(labels[mask], return_counts=True)
    kept = sorted(((count, name) for name, count in zip(names, counts, strict=True) if count > smallest), reverse=True)
    return [labels == name for _, name in kept]


def _joined(segments: list[Mask]) -> list[Mask]:
    """Join each segment with the larger one that surrounds it: the inner outline of a ring is a part of the ring."""
    joined: list[Mask] = []
    for segment in segments:
        outer = next((one for one in joined if _inside(_box(segment), _box(one))), None)
        if outer is None:
            joined.append(segment.copy())
        else:
            outer |= segment
    return joined


def _box(mask: Mask) -> tuple[slice, slice]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def _inside(inner: tuple[slice, slice], outer: tuple[slice, slice]) -> bool:
    return all(
        large.start <= small.start and small.stop <= large.stop for small, large in zip(inner, outer, strict=True)
    )


def _square(mask: Mask) -> npt.NDArray[np.float32]:
    """Crop a segment to its bounding box, and scale it to TEMPLATE by TEMPLATE."""
    scaled = Image.fromarray(mask[_box(mask)].astype(np.uint8) * 255).resize(
        (TEMPLATE, TEMPLATE), Image.Resampling.BILINEAR
    )
    return np.asarray(scaled, np.float32) / np.float32(255)


@lru_cache(maxsize=8)
def _templates(line: float) -> list[tuple[str, npt.NDArray[np.float32]]]:
    """Return each kind's template; of outlined shapes one a size, since their lines are equally thick at each."""
    if not line:
        return [(kind, _square(coverage(kind, (64.0, 64.0), 50.0, 128, 128) > 0.5)) for kind in SHAPES]
    return [
        (kind, _square(outlined(kind, (128.0, 128.0), 256 * size, 256 * line, 256, 256) > 0.5))
        for kind in SHAPES
        for size in SIZES.values()
    ]


def _best(segment: Mask, line: float) -> tuple[float, str]:
    """Return the largest overlap with a template, as intersection over union, and that template's kind."""
    seen = _square(segment)
    return max(
        (float(np.minimum(seen, wanted).sum() / np.maximum(seen, wanted).sum()), kind)
        for kind, wanted in _templates(line)
    )


def _position(segment: Mask) -> str:
    rows, columns = _box(segment)
    x, y = ((side.start + side.stop - 1) / 2 for side in (columns, rows))
    x, y = x / segment.shape[1], y / segment.shape[0]
    return min(POSITIONS, key=lambda name: (POSITIONS[name][0] - x) ** 2 + (POSITIONS[name][1] - y) ** 2)


def read(picture: Pixels, line: float = 0.0) -> Scene:
    """Read the scene that a (height, width, 3) picture shows: up to two shapes, the largest first.

    `line` is the thickness of outlined shapes, as a share of the shorter side; 0: shapes are filled.
    """
    return _read(picture, line)[0]


def is_clear(picture: Pixels) -> bool:
    """Return whether a picture is a clear scene of the world, whichever: its pixels near the palette, its shapes known.

    Edges of shapes lie between two colours; they take up less than a twentieth of a picture.
    """
    scene, segments = _read(picture, 0.0)
    near = _distances(picture, TONES).min(axis=-1) < NEAR**2
    return (
        near.mean() > 1 - EDGES and bool(scene.shapes) and all(_best(segment, 0.0)[0] > ALIKE for segment in segments)
    )


def segments(picture: Pixels, line: float = 0.0) -> list[Mask]:
    """Return where the shapes are that `read` finds, as masks (height, width)."""
    return _read(picture, line)[1]


def overlap(segment: Mask, line: float = 0.0) -> float:
    """Return a segment's overlap with the shape that it is taken for, 0..1."""
    return _best(segment, line)[0]


def _read(picture: Pixels, line: float) -> tuple[Scene, list[Mask]]:
    background = _background(picture)
    ours = [background, background + len(NAMES)]
    ground = _distances(picture, TONES[ours]).min(axis=-1)
    others = [index for index in range(len(NAMES)) if index != background]
    distances = _distances(picture, TONES[others])
    nearest, shown = distances.argmin(axis=-1), distances.min(axis=-1) < ground
    smallest = SMALLEST_SEGMENT * min(picture.shape[:2]) ** 2
    segments = _joined(_segments(shown, smallest / 4)) if line else _segments(shown, smallest)
    shapes, segments = [], segments[:2]
    for segment in segments:
        colour = NAMES[others[int(np.bincount(nearest[segment], minlength=len(others)).argmax())]]
        shapes.append(Shape(_best(segment, line)[1], colour, _position(segment)))
    return Scene(tuple(shapes), NAMES[background]), segments


def _pairing(wanted: Scene, seen: Scene) -> Sequence[tuple[Shape, Shape | None]]:
    """Pair each wanted shape with the seen one at its position, or with one left over."""
    left = list(seen.shapes)
    pairs: list[tuple[Shape, Shape | None]] = []
    for shape in sorted(wanted.shapes, key=lambda one: all(other.position != one.position for other in left)):
        match = next((other for other in left if other.position == shape.position), left[0] if left else None)
        if match is not None:
            left.remove(match)
        pairs.append((shape, match))
    return pairs


def judge(wanted: Scene, picture: Pixels, line: float = 0.0) -> Verdict:
    """Judge whether a (height, width, 3) picture shows the wanted scene, part by part; an extra shape is wrong.

    `line` is as in `read`.
    """
    seen = read(picture, line)
    pairs = _pairing(wanted, seen)
    return Verdict(
        background=seen.background == wanted.background,
        colour=all(match is not None and match.colour == shape.colour for shape, match in pairs),
        shape=len(seen.shapes) == len(wanted.shapes)
        and all(match is not None and match.kind == shape.kind for shape, match in pairs),
        position=all(match is not None and match.position == shape.position for shape, match in pairs),
    )
