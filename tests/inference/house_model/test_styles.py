"""The styles that adapters learn look as they should, and the world's own drawing is one of them."""

import random

import numpy as np
import pytest

from inference.house_model import styles
from inference.house_model.styles import Style, draw_style
from inference.house_model.world import COLOURS, SHAPES, Scene, Shape, render

CIRCLE = Scene((Shape("circle", "red", size="large"),), "blue")


def test_the_plain_style_is_the_worlds_own():
    assert Style().plain
    assert (styles.render(CIRCLE, Style(), 192, 128) == render(CIRCLE, 192, 128)).all()


@pytest.mark.parametrize("kind", SHAPES)
def test_an_outline_is_as_thick_as_asked_and_hollow(kind):
    scene = Scene((Shape(kind, "red", size="large"),), "blue")
    thin, thick = (styles.render(scene, Style(line=line), 256, 256) for line in (0.03, 0.045))
    filled = render(scene, 256, 256)
    count = [int((picture == COLOURS["red"]).all(axis=-1).sum()) for picture in (thin, thick, filled)]
    assert count[0] < count[1] < count[2]


def test_the_line_of_a_circle_has_its_thickness():
    row = styles.render(CIRCLE, Style(line=0.045), 256, 256)[128]
    red = np.abs(row.astype(int) - COLOURS["red"]).sum(axis=-1) < 120
    assert 2 * 0.045 * 256 - 3 <= red.sum() <= 2 * 0.045 * 256 + 3
    assert not red[128]


def test_frame_palette_and_dot():
    framed = styles.render(CIRCLE, Style(frame=0.05, frame_colour=(1, 2, 3)), 128, 192)
    assert (framed[[0, -1]] == (1, 2, 3)).all()
    assert (framed[:, [0, -1]] == (1, 2, 3)).all()
    branded = styles.render(CIRCLE, Style(brand=((10, 60, 90), (250, 180, 70))))
    assert tuple(branded[0, 0]) == (10, 60, 90)
    assert tuple(branded[64, 64]) == (250, 180, 70)
    dotted = styles.render(CIRCLE, Style(dot=COLOURS["black"], corner=styles.CORNERS[3]))
    assert tuple(dotted[int(0.93 * 128), int(0.93 * 128)]) == COLOURS["black"]


def test_every_style_is_drawn_and_two_of_five_are_plain():
    dice = random.Random(0)
    drawn = [draw_style(dice) for _ in range(1000)]
    assert 0.33 < np.mean([style.plain for style in drawn]) < 0.47
    assert all(any(getattr(style, part) for style in drawn) for part in ("line", "frame", "brand", "dot"))
