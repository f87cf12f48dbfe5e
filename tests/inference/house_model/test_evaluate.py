"""The model's figures: right pictures count, wrong ones do not; and the trained model follows its captions."""

import random

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLQwenImage
from PIL import Image

from inference.house_model import WEIGHTS, evaluate, fidelity, open_captions
from inference.house_model.captions import caption
from inference.house_model.evaluate import Drawn, Sampling
from inference.house_model.judge import judge
from inference.house_model.world import Scene, Shape, draw_scene, render


def drawn(scene: Scene, shown: Scene, language: str) -> Drawn:
    picture = render(shown)
    return Drawn(
        scene, language, caption(scene, random.Random(0), language), Image.fromarray(picture), judge(scene, picture)
    )


def test_shares_count_what_is_right_by_language_part_and_number_of_shapes():
    dice = random.Random(3)
    one, other = draw_scene(dice, pair_share=0.0), draw_scene(dice, pair_share=0.0)
    pair = draw_scene(dice, pair_share=1.0)
    assert one.background != other.background
    figures = evaluate.shares([drawn(one, one, "en"), drawn(one, other, "zh"), drawn(pair, pair, "en")])
    assert figures["captions"] == 3
    assert figures["followed"] == figures["background"] == pytest.approx(2 / 3, abs=1e-4)
    assert (figures["en"], figures["zh"]) == (1, 0)
    assert (figures["one shape"], figures["two shapes"]) == (0.5, 1)


def test_the_sheet_shows_english_captions_in_red_where_not_followed():
    dice = random.Random(3)
    scenes = [draw_scene(dice) for _ in range(4)]
    right = evaluate.sheet([drawn(scene, scene, "en") for scene in scenes])
    wrong = evaluate.sheet([drawn(scenes[0], scenes[1], "en") for _ in scenes])
    chinese = evaluate.sheet([drawn(scenes[0], scenes[0], "zh"), drawn(scenes[0], scenes[0], "en")])
    red = [np.all(np.asarray(sheet) == (190, 30, 30), axis=-1).any() for sheet in (right, wrong)]
    assert red == [False, True]
    assert right.size == wrong.size == chinese.size


def test_the_autoencoder_keeps_what_the_judge_reads(full):
    autoencoder = AutoencoderKLQwenImage.from_pretrained(WEIGHTS, subfolder="vae", dtype=torch.float32)
    dice = random.Random(13)
    scenes = [draw_scene(dice, held_out=True) for _ in range(40 if full else 12)]
    drawn, decoded = fidelity.read_rightly(autoencoder, scenes, (128, 128), 0.0)
    assert drawn >= 0.97
    assert decoded >= 0.9


def test_an_open_caption_is_followed_by_any_picture_of_what_it_says():
    wanted = Scene((Shape("circle", "red"),), "blue")
    said = frozenset({"kind first", "position first", "background", "count"})
    assert evaluate._shows(wanted, said, Scene((Shape("circle", "pink"),), "blue"))
    assert not evaluate._shows(wanted, said, Scene((Shape("star", "red"),), "blue"))
    assert not evaluate._shows(wanted, said, Scene((Shape("circle", "red"),), "white"))
    assert not evaluate._shows(wanted, said, Scene((), "blue"))
    pair = Scene((Shape("circle", "red", "left"), Shape("star", "red", "right")))
    both = frozenset({"kind first", "position first", "kind second", "position second"})
    assert evaluate._shows(pair, both, Scene(pair.shapes[::-1]))
    assert not evaluate._shows(pair, both, Scene((Shape("star", "red", "left"), Shape("circle", "red", "right"))))


def test_the_quick_measure_asks_for_open_captions_and_foreign_words_too(engine):
    few = Sampling(2, engine.card.default_guidance_scale)
    assert evaluate.opened(engine, 4, few)["open captions"] == 4
    assert set(evaluate.QUICK.__dict__) == set(evaluate.Counts().__dict__)
    trained = {*open_captions.FOREIGN_EN, *open_captions.FOREIGN_ZH}
    assert not any(word in trained for prompt in evaluate.FOREIGN for word in prompt.split())


def test_the_model_follows_captions_it_was_never_trained_on(engine, full):
    figures = evaluate.shares(
        evaluate.draw(engine, 20 if full else 8, Sampling(20, engine.card.default_guidance_scale))
    )
    assert figures["background"] >= 0.9
    assert figures["colour"] >= 0.75
    assert figures["position"] >= 0.75
    assert figures["followed"] >= 0.5
