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


def test_what_an_open_caption_leaves_open_is_unsaid():
    told = said(text.SCENE_PARTS, text.scene_targets(STAR, frozenset({"colour first"})))
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


@pytest.mark.deep
def test_training_learns_and_then_freezes(tmp_path):
    pupil = reader(0)
    before = pupil.model.lm_head.weight.clone()
    text.train(pupil, tmp_path / "text.pt", Pace("text", 3))
    assert not torch.equal(before, pupil.model.lm_head.weight)
    assert not any(weights.requires_grad for weights in pupil.model.parameters())


def test_instructions_are_read_with_the_positions_that_the_served_model_gives_them():
    pupil = reader(0)
    seen = []
    pupil.model.model.language_model.register_forward_pre_hook(
        lambda module, given, named: seen.append(named["position_ids"]), with_kwargs=True
    )
    pupil.instructions(["make the star green"], [text.thumbnail(STAR, 128, 128)])
    _, height, width = seen[0][:, 0]
    assert (height != width).any()
