"""Edits of a scene: an instruction in English or Chinese, and the scene before and after it."""

import random
from dataclasses import dataclass, replace

from inference.house_model.captions import COLOURS_ZH, POSITIONS_ZH, SHAPES_ZH, a
from inference.house_model.world import COLOURS, POSITIONS, SHAPES, Scene, Shape, draw_scene, is_held_out

VERBS = ("recolour", "background", "replace", "remove", "move")
# as a share of the side; closer than this, two shapes could touch
APART = 0.45
NAMED_BY_COLOUR = 0.25

PLACES_EN = {
    "center": "center",
    "left": "left",
    "right": "right",
    "top": "top",
    "bottom": "bottom",
    "top left": "top left corner",
    "top right": "top right corner",
    "bottom left": "bottom left corner",
    "bottom right": "bottom right corner",
}
PHRASES_EN = {
    "recolour": (
        "make the {target} {colour}",
        "change the {target} to {colour}",
        "turn the {target} {colour}",
        "change the color of the {target} to {colour}",
    ),
    "background": (
        "change the background to {colour}",
        "make the background {colour}",
        "change the color of the background to {colour}",
    ),
    "replace": (
        "replace the {target} with {kind}",
        "change the {target} into {kind}",
        "turn the {target} into {kind}",
    ),
    "remove": ("remove the {target}", "delete the {target}", "take the {target} away"),
    "move": ("move the {target} to the {place}", "put the {target} in the {place}"),
}
PHRASES_ZH = {
    "recolour": ("把{target}换成{colour}", "把{target}变成{colour}", "把{target}改成{colour}"),
    "background": ("把背景换成{colour}", "把背景变成{colour}", "把背景改成{colour}"),
    "replace": ("把{target}换成{kind}", "把{target}变成{kind}", "用{kind}代替{target}"),
    "remove": ("去掉{target}", "把{target}去掉", "删除{target}"),
    "move": ("把{target}移到{place}", "把{target}放到{place}"),
}


@dataclass(frozen=True)
class Edit:
    """One change: `was` became `now` (a removed shape becomes None); both are None if the background changed."""

    verb: str
    before: Scene
    after: Scene
    was: Shape | None = None
    now: Shape | None = None


def _room(scene: Scene, moved: Shape) -> list[str]:
    others = [POSITIONS[shape.position] for shape in scene.shapes if shape is not moved]
    return [
        name
        for name, (x, y) in POSITIONS.items()
        if name != moved.position and all((x - u) ** 2 + (y - v) ** 2 > APART**2 for u, v in others)
    ]


def _changed(shape: Shape, scene: Scene, verb: str, dice: random.Random) -> Shape | None:
    if verb == "recolour":
        return replace(shape, colour=dice.choice([c for c in COLOURS if c not in (shape.colour, scene.background)]))
    if verb == "replace":
        taken = {one.kind for one in scene.shapes}
        return replace(shape, kind=dice.choice([kind for kind in SHAPES if kind not in taken]))
    if verb == "move":
        return replace(shape, position=dice.choice(_room(scene, shape)))
    return None


def _edit(before: Scene, verb: str, dice: random.Random) -> Edit:
    if verb == "background":
        taken = {before.background, *(shape.colour for shape in before.shapes)}
        after = replace(before, background=dice.choice([colour for colour in COLOURS if colour not in taken]))
        return Edit(verb, before, after)
    was = dice.choice(before.shapes)
    now = _changed(was, before, verb, dice)
    shapes = tuple(now if shape is was else shape for shape in before.shapes)
    return Edit(verb, before, replace(before, shapes=tuple(shape for shape in shapes if shape)), was, now)


def _told_apart(scene: Scene) -> bool:
    return len({shape.kind for shape in scene.shapes}) == len(scene.shapes)


def draw_edit(dice: random.Random, *, held_out: bool = False, pair_share: float = 0.4) -> Edit:
    """Sample an edit whose scenes are both in the training split, or whose result is in the held-out split.

    A removal makes no new combination, so there it is the scene before that is held out. The two shapes of a pair
    differ in kind, so that an instruction can name one of them.
    """
    verb = dice.choice(VERBS)
    while True:
        before = draw_scene(dice, held_out=held_out and verb == "remove", pair_share=pair_share)
        if _told_apart(before):
            edit = _edit(before, verb, dice)
            if verb == "remove" or is_held_out(edit.after) is held_out:
                return edit


def draw_edits(dice: random.Random, count: int, *, pair_share: float = 0.4) -> list[Edit]:
    """Sample `count` edits, by different verbs, of one scene; all scenes are in the training split."""
    while True:
        before = draw_scene(dice, pair_share=pair_share)
        if _told_apart(before):
            edits = [_edit(before, verb, dice) for verb in dice.sample(VERBS, count)]
            if not any(is_held_out(edit.after) for edit in edits):
                return edits


def backwards(edit: Edit) -> Edit | None:
    """Return the edit that undoes another, if there is one: what was removed cannot be named."""
    return None if edit.verb == "remove" else Edit(edit.verb, edit.after, edit.before, edit.now, edit.was)


def instruction(edit: Edit, dice: random.Random, language: str) -> str:
    """Phrase an edit as an instruction in "en" or "zh"."""
    shown = edit.now or Shape("circle", edit.after.background)
    by_colour = dice.random() < NAMED_BY_COLOUR
    if language == "zh":
        named = [COLOURS_ZH[edit.was.colour] if by_colour else "", SHAPES_ZH[edit.was.kind]] if edit.was else []
        return dice.choice(PHRASES_ZH[edit.verb]).format(
            target="".join(named),
            colour=COLOURS_ZH[shown.colour],
            kind=SHAPES_ZH[shown.kind],
            place=POSITIONS_ZH[shown.position],
        )
    named = [*([edit.was.colour] if by_colour else []), edit.was.kind] if edit.was else []
    text = dice.choice(PHRASES_EN[edit.verb]).format(
        target=" ".join(named), colour=shown.colour, kind=a(shown.kind), place=PLACES_EN[shown.position]
    )
    return (text[0].upper() + text[1:] if dice.random() < 0.15 else text) + dice.choice(("", "", "", "."))
