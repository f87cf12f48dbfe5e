"""Edits change what they ask for and nothing else, and say so in both languages."""

import random
from dataclasses import replace

import pytest

from inference.house_model.captions import LANGUAGES
from inference.house_model.edits import VERBS, backwards, draw_edit, draw_edits, instruction
from inference.house_model.judge import judge
from inference.house_model.world import POSITIONS, is_held_out, render


def edits(count: int, *, held_out: bool = False) -> list:
    dice = random.Random(3)
    return [draw_edit(dice, held_out=held_out) for _ in range(count)]


def test_one_thing_changes_and_all_else_stays():
    for edit in edits(500):
        if edit.verb == "background":
            assert edit.after == replace(edit.before, background=edit.after.background)
            assert edit.after.background != edit.before.background
        else:
            assert [shape for shape in edit.before.shapes if shape != edit.was] == [
                shape for shape in edit.after.shapes if shape != edit.now
            ]
            assert replace(edit.after, shapes=()) == replace(edit.before, shapes=())


def test_every_verb_comes_and_the_result_can_be_told_from_the_picture_before(full):
    chosen = edits(300 if full else 50)
    assert {edit.verb for edit in chosen} == set(VERBS)
    for edit in chosen:
        assert judge(edit.after, render(edit.after)).followed
        assert not judge(edit.after, render(edit.before)).followed


def test_two_shapes_never_touch():
    for edit in edits(500):
        if len(edit.after.shapes) == 2:
            (x, y), (u, v) = (POSITIONS[shape.position] for shape in edit.after.shapes)
            assert (x - u) ** 2 + (y - v) ** 2 > 0.45**2


def test_training_never_sees_a_held_out_scene():
    assert not any(is_held_out(scene) for edit in edits(500) for scene in (edit.before, edit.after))
    held_out = edits(100, held_out=True)
    assert {edit.verb for edit in held_out} == set(VERBS)
    assert all(is_held_out(edit.before if edit.verb == "remove" else edit.after) for edit in held_out)


def test_edits_of_one_scene_differ_in_what_they_do_to_it():
    dice = random.Random(3)
    for _ in range(100):
        drawn = draw_edits(dice, 3, pair_share=0.7)
        assert len({edit.before for edit in drawn}) == 1
        assert len({edit.verb for edit in drawn}) == len({edit.after for edit in drawn}) == 3
        assert not any(is_held_out(scene) for edit in drawn for scene in (edit.before, edit.after))


def test_an_edit_backwards_leads_back():
    for edit in edits(200):
        back = backwards(edit)
        assert (back is None) is (edit.verb == "remove")
        if back:
            assert (back.before, back.after, back.was, back.now) == (edit.after, edit.before, edit.now, edit.was)


@pytest.mark.parametrize("language", LANGUAGES)
def test_an_instruction_tells_edits_of_the_same_picture_apart(language):
    dice, told = random.Random(1), {}
    for edit in edits(3000):
        text = instruction(edit, dice, language).rstrip(".").lower()
        named = (edit.was and edit.was.kind, edit.verb)
        value = edit.after.background if edit.verb == "background" else edit.now
        if edit.verb == "recolour":
            value = edit.now.colour
        elif edit.verb == "replace":
            value = edit.now.kind
        elif edit.verb == "move":
            value = edit.now.position
        assert told.setdefault(text, (named, value)) == (named, value), text
    assert len(told) > 500
