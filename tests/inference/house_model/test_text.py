"""The text encoder's training: what a caption tells becomes classes, and a former encoder's knowledge is kept."""

import random

import pytest
import torch

from inference.house_model import architecture, text, tokenizer
from inference.house_model.edits import Edit, draw_edit
from inference.house_model.pace import Pace
from inference.house_model.world import Scene, Shape

STAR = Scene((Shape("star", "red", "top left", "small"),), "blue", "striped")


def reader(seed: int) -> text.Reader:
    torch.manual_seed(seed)
    words = tokenizer.build()
    return text.Reader(architecture.text_encoder(words).eval(), architecture.processor(words))


def said(parts: text.Parts, numbers: list[int]) -> dict[str, str]:
    """Return class numbers as names, without the parts that are absent."""
    return {
        name: (*names, text.UNSAID)[number]
        for (name, names), number in zip(parts.items(), numbers, strict=True)
        if number != text.ABSENT
    }


def test_a_whole_caption_says_all_of_its_scene():
    assert said(text.SCENE_PARTS, text.scene_targets(STAR)) == {
        "background": "blue",
        "pattern": "striped",
        "kind first": "star",
        "colour first": "red",
        "position first": "top left",
        "size first": "small",
        "count": "1",
    }


def test_what_a_partial_caption_leaves_open_is_unsaid():
    told = said(text.SCENE_PARTS, text.scene_targets(STAR, frozenset({"colour"})))
    assert told["colour first"] == "red"
    assert {value for name, value in told.items() if name != "colour first"} == {text.UNSAID}


def test_an_instruction_says_what_changes():
    green = Shape("star", "green", "top left", "small")
    edit = Edit("recolour", STAR, Scene((green,), "blue", "striped"), STAR.shapes[0], green)
    assert said(text.EDIT_PARTS, text.edit_targets(edit)) == {
        "verb": "recolour",
        "target": "star",
        "colour": "green",
        "kind": text.UNSAID,
        "position": text.UNSAID,
    }
    dice = random.Random(0)
    assert all(text.ABSENT not in text.edit_targets(draw_edit(dice)) for _ in range(200))


def test_a_former_encoder_is_taken_over_token_by_token():
    former, fresh = reader(0), reader(1)
    prompts = ["a red star on a blue background", "蓝色背景的左上角有一个红色星形"]
    before, _ = fresh.prompts(prompts)
    text.adopt(fresh, former)
    after, _ = fresh.prompts(prompts)
    wanted, _ = former.prompts(prompts)
    torch.testing.assert_close(after, wanted)
    assert not torch.allclose(before, wanted)


def test_training_learns_and_then_freezes():
    pupil = reader(0)
    before = pupil.model.lm_head.weight.clone()
    text.train(pupil, Pace("text", 3))
    assert not torch.equal(before, pupil.model.lm_head.weight)
    assert not any(weights.requires_grad for weights in pupil.model.parameters())


def test_a_prompt_that_is_too_long_is_refused():
    states, lengths = reader(0).prompts(["a red star " * 20])
    with pytest.raises(ValueError, match="there is room for 28"):
        text.padded(states, lengths, 28)
