"""Captions tell everything that a scene shows, in both languages, in many ways."""

import random

import pytest

from inference.house_model import captions
from inference.house_model.captions import LANGUAGES, caption
from inference.house_model.world import Scene, Shape, draw_scene

STAR = Scene((Shape("star", "red", "top left", "small"),), "blue", "striped")


def phrasings(scene: Scene, language: str) -> set[str]:
    dice = random.Random(0)
    return {caption(scene, dice, language) for _ in range(300)}


@pytest.mark.parametrize(
    ("language", "words"),
    [
        ("en", ("small", "red", "star", "top left", "striped", "blue")),
        ("zh", ("小", "红色", "星形", "左上角", "条纹", "蓝色")),
    ],
)
def test_every_phrasing_names_every_part(language, words):
    told = phrasings(STAR, language)
    assert len(told) >= 10
    for text in told:
        assert all(word in text.lower() for word in words), text


def test_no_phrasing_fits_two_scenes():
    dice, told = random.Random(2), {}
    for _ in range(4000):
        scene = draw_scene(dice, pair_share=0.4)
        text = caption(scene, dice, dice.choice(LANGUAGES)).rstrip(".。").lower()
        assert told.setdefault(text, scene) == scene, text


def test_a_pair_is_told_with_both_shapes_and_their_order():
    pair = Scene((Shape("circle", "red", "left"), Shape("square", "blue", "right")))
    for text in phrasings(pair, "en"):
        assert text.lower().index("red circle") < text.lower().index("blue square")
    assert any("red circle to the left of a blue square" in text for text in phrasings(pair, "en"))
    assert any("红色" in text and "左边" in text for text in phrasings(pair, "zh"))


def test_the_same_dice_say_the_same():
    assert phrasings(STAR, "en") == phrasings(STAR, "en")
    assert set(captions.LANGUAGES) == {"en", "zh"}


@pytest.mark.parametrize("language", LANGUAGES)
def test_an_empty_picture_and_shapes_that_stand_askew_have_captions(language):
    empty = Scene((), "green")
    assert all("green" in text or "绿色" in text for text in phrasings(empty, language))
    askew = Scene((Shape("circle", "red", "top left"), Shape("square", "blue", "right")))
    for text in phrasings(askew, language):
        assert ("top left" in text.lower() and "right" in text) or ("左上角" in text and "右边" in text)
