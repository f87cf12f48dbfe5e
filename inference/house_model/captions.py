"""Captions of scenes in English and in Chinese, in many phrasings. Nothing here draws.

What a caption leaves out has its default: medium size, in the center, on a plain white background. Captions that leave
out more, or say what the world does not have, are in `open_captions`.
"""

import random

from inference.house_model.world import PAIRS, Scene, Shape

LANGUAGES = ("en", "zh")

COLOURS_ZH = {
    "red": "红色", "green": "绿色", "blue": "蓝色", "yellow": "黄色", "orange": "橙色", "purple": "紫色",
    "pink": "粉色", "black": "黑色", "white": "白色", "gray": "灰色", "cyan": "青色", "brown": "棕色",
}  # fmt: skip
SHAPES_ZH = {
    "circle": "圆形", "square": "正方形", "triangle": "三角形", "star": "星形",
    "diamond": "菱形", "cross": "十字", "ring": "圆环", "heart": "心形",
}  # fmt: skip
POSITIONS_EN = {
    "center": "in the center",
    "left": "on the left",
    "right": "on the right",
    "top": "at the top",
    "bottom": "at the bottom",
    "top left": "in the top left corner",
    "top right": "in the top right corner",
    "bottom left": "in the bottom left corner",
    "bottom right": "in the bottom right corner",
}
POSITIONS_ZH = {
    "center": "中间", "left": "左边", "right": "右边", "top": "上方", "bottom": "下方",
    "top left": "左上角", "top right": "右上角", "bottom left": "左下角", "bottom right": "右下角",
}  # fmt: skip
RELATIONS_EN = {"left": "to the left of", "right": "to the right of", "top": "above", "bottom": "below"}
SIZES_ZH = {"small": "小的", "medium": "", "large": "大的"}
PATTERNS_ZH = {"plain": "", "striped": "条纹", "checkered": "格子"}

# shape, where, ground: filled with the phrases below
ONE_EN = (
    "{shape} {where} on {ground}",
    "{ground} with {shape} {where}",
    "a picture of {shape} {where} on {ground}",
    "{shape} on {ground}, {where}",
    "{where} {shape} on {ground}",
    "{ground} and {shape} {where}",
    "an image of {shape} {where}, {ground}",
)
ONE_ZH = (
    "{ground}的{where}有{shape}",
    "{shape}在{ground}的{where}",
    "{ground}上，{where}有{shape}",
    "{ground}，{where}{shape}",
    "一张图片，{ground}的{where}有{shape}",
    "{where}有{shape}，{ground}",
)
CENTRED_EN = ("{shape} on {ground}", "{ground} with {shape}", "a picture of {shape} on {ground}")
CENTRED_ZH = ("{ground}上有{shape}", "{shape}，{ground}", "一张图片，{ground}上有{shape}")
TWO_EN = (
    "{first} {relation} {second} on {ground}",
    "{ground} with {first} {relation} {second}",
    "a picture of {first} {relation} {second} on {ground}",
    "{first} {here} and {second} {there} on {ground}",
)
TWO_ZH = (
    "{ground}上，{first}在{second}的{here}",
    "{first}在{second}的{here}，{ground}",
    "{ground}的{here}有{first}，{there}有{second}",
)


def a(phrase: str) -> str:
    """Put the indefinite article before an English phrase."""
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


def _shape_en(shape: Shape) -> str:
    return a(" ".join(word for word in (shape.size, shape.colour, shape.kind) if word != "medium"))


def _shape_zh(shape: Shape, dice: random.Random) -> str:
    return f"一个{SIZES_ZH[shape.size]}{COLOURS_ZH[shape.colour]}{dice.choice(('', '的'))}{SHAPES_ZH[shape.kind]}"


def ground_en(scene: Scene, dice: random.Random) -> str:
    """Name a scene's background in English, with its article."""
    if scene.pattern == "plain":
        return a(f"{dice.choice(('', '', 'plain '))}{scene.background} background")
    return a(f"{scene.pattern} {scene.background} background")


def ground_zh(scene: Scene, dice: random.Random) -> str:
    """Name a scene's background in Chinese."""
    colour, pattern = COLOURS_ZH[scene.background], PATTERNS_ZH[scene.pattern]
    return dice.choice((f"{colour}{pattern}背景", f"{colour}的{pattern}背景"))


def _english(scene: Scene, dice: random.Random) -> str:
    if not scene.shapes:
        return f"an empty picture, {ground_en(scene, dice)}"
    first, second = scene.shapes[0], scene.shapes[-1]
    phrases = {
        "shape": _shape_en(first),
        "first": _shape_en(first),
        "second": _shape_en(second),
        "where": POSITIONS_EN[first.position],
        "here": POSITIONS_EN[first.position],
        "there": POSITIONS_EN[second.position],
        "relation": RELATIONS_EN.get(first.position, ""),
        "ground": ground_en(scene, dice),
    }
    return _form(scene, dice, (ONE_EN, CENTRED_EN, TWO_EN), ("{shape}", "{shape} {where}")).format(**phrases)


def _chinese(scene: Scene, dice: random.Random) -> str:
    if not scene.shapes:
        return f"一张空的图片，{ground_zh(scene, dice)}"
    first, second = scene.shapes[0], scene.shapes[-1]
    phrases = {
        "shape": _shape_zh(first, dice),
        "first": _shape_zh(first, dice),
        "second": _shape_zh(second, dice),
        "where": POSITIONS_ZH[first.position],
        "here": POSITIONS_ZH[first.position],
        "there": POSITIONS_ZH[second.position],
        "ground": ground_zh(scene, dice),
    }
    return _form(scene, dice, (ONE_ZH, CENTRED_ZH, TWO_ZH), ("{shape}", "{where}有{shape}")).format(**phrases)


def _form(scene: Scene, dice: random.Random, forms: tuple[tuple[str, ...], ...], bare: tuple[str, str]) -> str:
    one, centred, two = forms
    if len(scene.shapes) == 2:
        related = tuple(shape.position for shape in scene.shapes) in PAIRS
        # of shapes neither side by side nor one above the other, one can only say where each is
        return dice.choice(two) if related else two[-1]
    central = scene.shapes[0].position == "center" and dice.random() < 0.5
    if (scene.background, scene.pattern) == ("white", "plain") and dice.random() < 0.3:
        return bare[0] if central else bare[1]
    return dice.choice(centred if central else one)


def caption(scene: Scene, dice: random.Random, language: str) -> str:
    """Phrase a scene in "en" or "zh"; English captions are sometimes capitalised or end in a full stop."""
    if language == "zh":
        return _chinese(scene, dice) + dice.choice(("", "", "", "。"))
    text = _english(scene, dice)
    if dice.random() < 0.15:
        text = text[0].upper() + text[1:]
    return text + dice.choice(("", "", "", "."))
