"""The judge finds drawn scenes right, and every single change wrong in its own part only."""

import random
from dataclasses import replace

import numpy as np
import pytest

from inference.house_model import styles
from inference.house_model.judge import Verdict, is_clear, judge
from inference.house_model.styles import Style
from inference.house_model.world import COLOURS, POSITIONS, SHAPES, Scene, Shape, draw_scene, render

STAR = Scene((Shape("star", "red", "left"),), "blue")
PAIR = Scene((Shape("circle", "red", "left"), Shape("square", "green", "right")), "white")


@pytest.mark.parametrize("size", [(128, 128), (192, 128), (64, 64)])
def test_at_least_99_of_100_drawn_scenes_are_found_right(size, full):
    dice = random.Random(5)
    scenes = [draw_scene(dice, held_out=index % 2 == 0, pair_share=0.4) for index in range(150 if full else 50)]
    assert np.mean([judge(scene, render(scene, *size)).followed for scene in scenes]) >= 0.99


def test_noise_and_blur_do_not_mislead():
    picture = render(STAR).astype(int)
    noisy = picture + np.random.default_rng(0).integers(-12, 12, picture.shape)
    assert judge(STAR, noisy.clip(0, 255).astype(np.uint8)).followed


def shown(**changes) -> Scene:
    return replace(STAR, shapes=(replace(STAR.shapes[0], **changes),))


@pytest.mark.parametrize(
    ("other", "wrong"),
    [
        *[(shown(kind=kind), "shape") for kind in SHAPES if kind != "star"],
        *[(shown(colour=colour), "colour") for colour in COLOURS if colour not in ("red", "blue")],
        *[(shown(position=place), "position") for place in POSITIONS if place != "left"],
        (replace(STAR, background="gray"), "background"),
    ],
    ids=str,
)
def test_a_single_change_is_wrong_in_its_part_only(other, wrong):
    right = Verdict(background=True, colour=True, shape=True, position=True)
    verdict = judge(STAR, render(other))
    assert verdict == replace(right, **{wrong: False})
    assert not verdict.followed


def test_a_shape_too_many_or_too_few_is_wrong():
    assert judge(PAIR, render(PAIR)).followed
    assert not judge(PAIR, render(replace(PAIR, shapes=PAIR.shapes[:1]))).followed
    assert not judge(replace(PAIR, shapes=PAIR.shapes[:1]), render(PAIR)).followed


def test_swapped_shapes_are_wrong():
    one, other = PAIR.shapes
    swapped = replace(PAIR, shapes=(replace(other, position="left"), replace(one, position="right")))
    verdict = judge(PAIR, render(swapped))
    assert not verdict.colour
    assert not verdict.shape


def test_an_empty_picture_has_only_its_background():
    blank = np.full((128, 128, 3), COLOURS["blue"], np.uint8)
    assert judge(STAR, blank) == Verdict(background=True, colour=False, shape=False, position=False)


@pytest.mark.parametrize("line", [0.03, 0.045])
@pytest.mark.parametrize("size", [(128, 128), (256, 256)])
def test_outlined_shapes_are_read_by_their_own_templates(size, line, full):
    dice = random.Random(5)
    scenes = [draw_scene(dice) for _ in range(100 if full else 30)]
    pictures = [styles.render(scene, Style(line=line), *size) for scene in scenes]
    assert np.mean([judge(*pair, line).followed for pair in zip(scenes, pictures, strict=True)]) >= 0.97


def test_scenes_of_the_world_are_clear_and_mixtures_are_not():
    dice = random.Random(5)
    assert all(is_clear(render(draw_scene(dice, pair_share=0.4), *size)) for size in [(128, 128), (192, 128)] * 10)
    one, other = render(STAR), render(replace(STAR, shapes=(Shape("circle", "yellow", "right"),), background="brown"))
    assert not is_clear(((one.astype(int) + other) // 2).astype(np.uint8))
    assert not is_clear(np.full((128, 128, 3), COLOURS["blue"], np.uint8)), "nothing is drawn"
    assert not is_clear(np.random.default_rng(0).integers(0, 256, (128, 128, 3)).astype(np.uint8))
