"""The drawn world: the same for everyone, with combinations that training never sees."""

import hashlib
import itertools
import random

import numpy as np
import pytest

from inference.house_model.world import (
    COLOURS,
    PAIRS,
    POSITIONS,
    SHAPES,
    Scene,
    Shape,
    draw_scene,
    is_held_out,
    render,
    second_tone,
)


def scenes(count: int, **choices) -> list[Scene]:
    dice = random.Random(1)
    return [draw_scene(dice, **choices) for _ in range(count)]


def test_the_same_seed_draws_the_same_scenes_and_pixels():
    assert scenes(50) == scenes(50)
    one, other = (hashlib.sha256(b"".join(render(scene).tobytes() for scene in scenes(5))).digest() for _ in range(2))
    assert one == other


def test_training_never_sees_a_held_out_combination():
    assert not any(map(is_held_out, scenes(2000)))
    assert all(map(is_held_out, scenes(200, held_out=True)))


def test_about_a_twentieth_is_held_out_and_every_word_is_on_both_sides():
    words = itertools.product(COLOURS, SHAPES, POSITIONS, COLOURS)
    split = {True: [], False: []}
    for colour, kind, position, background in words:
        if colour != background:
            split[is_held_out(Scene((Shape(kind, colour, position),), background))].append((colour, kind, position))
    assert 0.04 < len(split[True]) / (len(split[True]) + len(split[False])) < 0.06
    for side in split.values():
        assert [len(set(names)) for names in zip(*side, strict=True)] == [len(COLOURS), len(SHAPES), len(POSITIONS)]


def test_size_and_pattern_do_not_decide_what_is_held_out():
    one = Scene((Shape("star", "red", "left", "small"),), "blue", "striped")
    other = Scene((Shape("star", "red", "left", "large"),), "blue", "plain")
    assert is_held_out(one) is is_held_out(other)


def test_a_shape_can_be_seen_and_two_stand_apart():
    for scene in scenes(300, pair_share=0.5):
        assert all(shape.colour != scene.background for shape in scene.shapes)
        assert len(scene.shapes) == 1 or tuple(shape.position for shape in scene.shapes) in PAIRS


@pytest.mark.parametrize(("width", "height"), [(128, 128), (192, 128), (256, 256)])
def test_a_shape_is_drawn_in_its_colour_at_its_place(width, height):
    for place, (x, y) in POSITIONS.items():
        picture = render(Scene((Shape("circle", "red", place),), "blue"), width, height)
        assert picture.shape == (height, width, 3)
        assert tuple(picture[int(y * height), int(x * width)]) == COLOURS["red"]
        assert tuple(picture[0, 0]) == COLOURS["blue"]


def test_a_ring_has_a_hole_and_patterns_two_tones():
    picture = render(Scene((Shape("ring", "red"),), "green", "checkered"))
    tones = {tuple(pixel) for pixel in picture.reshape(-1, 3).tolist()}
    assert {COLOURS["green"], second_tone("green"), COLOURS["red"]} <= tones
    assert tuple(picture[64, 64]) != COLOURS["red"]
    assert np.abs(np.array(second_tone("black")) - COLOURS["black"]).min() > 20
