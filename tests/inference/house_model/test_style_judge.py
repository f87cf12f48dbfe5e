"""Each style's check accepts its own drawings and none of another style or of no style; prompts are judged in it."""

import random
from dataclasses import replace

import numpy as np
import pytest

from inference.house_model import styles
from inference.house_model.style_judge import follows, in_style, pasted
from inference.house_model.styles import CORNERS, STYLES
from inference.house_model.world import COLOURS, Scene, Shape, draw_scene, render

NAMES = tuple(STYLES)
SIDE = 192


def scenes(count: int = 20) -> list[Scene]:
    """Draw scenes in which each style can be seen: nothing in them is black or red."""
    dice, found = random.Random(5), []
    while len(found) < count:
        scene = draw_scene(dice, pair_share=0.3)
        if not {scene.background, *(shape.colour for shape in scene.shapes)} & {"black", "red"}:
            found.append(scene)
    return found


def share(name: str, pictures: list[np.ndarray]) -> float:
    return float(np.mean([in_style(name, picture) for picture in pictures]))


@pytest.mark.parametrize("name", NAMES)
def test_true_drawings_are_in_the_style_and_followed(name):
    drawn = [(scene, styles.render(scene, STYLES[name], SIDE, SIDE)) for scene in scenes()]
    assert share(name, [picture for _, picture in drawn]) == 1.0
    assert np.mean([follows(name, *pair).followed for pair in drawn]) > 0.95


@pytest.mark.parametrize("name", NAMES)
def test_plain_drawings_and_other_styles_are_not_in_the_style(name):
    assert share(name, [render(scene, SIDE, SIDE) for scene in scenes()]) <= 0.05  # one may have the brand's colours
    for other in NAMES:
        if other != name:
            drawn = [styles.render(scene, STYLES[other], SIDE, SIDE) for scene in scenes(10)]
            assert share(name, drawn) <= 0.05


@pytest.mark.parametrize("name", NAMES)
def test_another_scene_is_not_followed(name):
    pairs = zip(scenes(), [*scenes()[1:], scenes()[0]], strict=True)
    found = [follows(name, wanted, styles.render(shown, STYLES[name], SIDE, SIDE)).followed for wanted, shown in pairs]
    assert np.mean(found) <= 0.05


@pytest.mark.parametrize("name", ["palette", "frame", "dot"])
def test_a_pasted_style_is_in_the_style(name):
    assert share(name, [pasted(name, render(scene, SIDE, SIDE)) for scene in scenes()]) == 1.0


CIRCLE = Scene((Shape("circle", "blue", size="medium"),), "white")


@pytest.mark.parametrize(
    ("name", "style"),
    [
        ("frame", replace(STYLES["frame"], frame=0.03)),
        ("frame", replace(STYLES["frame"], frame=0.12)),
        ("frame", replace(STYLES["frame"], frame_colour=COLOURS["brown"])),
        ("dot", replace(STYLES["dot"], corner=CORNERS[3])),
        ("dot", replace(STYLES["dot"], dot=COLOURS["green"])),
        ("palette", replace(STYLES["palette"], brand=(COLOURS["purple"], COLOURS["orange"]))),
        ("palette", replace(STYLES["palette"], brand=(COLOURS["yellow"], COLOURS["purple"]))),
    ],
)
def test_nearly_the_style_is_not_the_style(name, style):
    assert in_style(name, styles.render(CIRCLE, STYLES[name], SIDE, SIDE))
    assert not in_style(name, styles.render(CIRCLE, style, SIDE, SIDE))
