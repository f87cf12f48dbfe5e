"""Captions that leave parts of a scene open, or say what the world does not have.

A sentence leaves a kind or colour to chance; a size, place or background that it does not say has its default. Bare
words, such as negative prompts, leave all else to chance. A word that the world does not have says nothing.
"""

import random
import zlib

from inference.house_model.captions import (
    COLOURS_ZH,
    POSITIONS_EN,
    POSITIONS_ZH,
    RELATIONS_EN,
    SHAPES_ZH,
    SIZES_ZH,
    a,
    ground_en,
    ground_zh,
)
from inference.house_model.world import COLOURS, PAIRS, Scene, Shape, draw_scene, is_held_out

Said = frozenset[str]
HELD_OUT_SHARE = 20
FOREIGN_SHARE = 0.25
LONGEST = 40

# what a scene may show that no sentence need say
BARE_EN = {"{colour}": ("colour",), "{colour} color": ("colour",), "{colour} shape": ("colour",), "{kind}": ("kind",),
           "{colour} {kind}": ("colour", "kind"), "{colour} background": ("background", "pattern")}  # fmt: skip
BARE_ZH = {"{colour}": ("colour",), "{colour}的": ("colour",), "{colour}图形": ("colour",), "{kind}": ("kind",),
           "{colour}{kind}": ("colour", "kind")}  # fmt: skip
ONE_EN = (
    "{thing}{where}{on}",
    "{thing}{where}{on}",
    "a picture of {thing}{where}{on}",
    "draw {thing}{where}{on}",
    "please draw {thing}{where}{on}",
    "there is {thing}{where}{on}",
    "an image with {thing}{where}{on}",
    "{thing}{on}{where}",
)
GROUND_FIRST_EN = ("{ground} with {thing}{where}", "on {ground}, {thing}{where}")
ONE_ZH = ("{thing}", "画{thing}", "一张图片，{thing}", "有{thing}")
PLACED_ZH = ("{thing}在{where}", "{where}有{thing}", "{where}{thing}")
GROUNDED_ZH = ("{ground}上有{thing}", "{thing}，{ground}", "{ground}上的{thing}", "{thing}在{ground}上")
BOTH_ZH = ("{ground}的{where}有{thing}", "{thing}在{ground}的{where}", "{ground}，{where}{thing}")
TWO_EN = ("{first} {relation} {second}{on}", "a picture of {first} {relation} {second}{on}")
TWO_ZH = ("{first}在{second}的{here}", "{here}有{first}，{there}有{second}")
THINGS_EN = ("shape", "shape", "figure", "form", "object", "thing")
THINGS_ZH = ("图形", "图形", "形状", "东西")

# words that the world does not have; those of `evaluate` are others
_NOUNS_EN = (
    "cat tree house car bird flower fish boat mountain river person face book chair table lamp apple banana train "
    "plane horse cow sheep rabbit tiger lion robot king queen child woman man soldier knight wizard bridge tower road "
    "street garden forest desert island ocean beach cloud rain snow sun moon planet rocket engine wheel key lock door "
    "window letter number logo text poster portrait landscape painting photograph sketch cube sphere cylinder cone "
    "pentagon octagon oval ellipse rectangle arrow line spiral crescent trapezoid polygon blob cake pizza coffee cup "
    "bottle hat shoe shirt dress glasses guitar piano violin drum"
)
_QUALITIES_EN = (
    "shiny wooden golden silver transparent metallic old new beautiful ugly fast slow cute scary happy sad magic "
    "glowing fluffy realistic detailed modern ancient dark bright soft hard round pointed magenta turquoise beige "
    "crimson violet lavender olive maroon navy teal"
)
_NOUNS_ZH = (
    "猫 树 房子 汽车 鸟 花 鱼 船 山 河 人 脸 书 椅子 桌子 灯 苹果 香蕉 火车 飞机 马 牛 羊 兔子 老虎 狮子 机器人 国王 "
    "孩子 女人 男人 骑士 桥 塔 路 花园 森林 沙漠 海洋 云 雨 雪 太阳 月亮 火箭 门 窗户 字母 数字 立方体 球体 五边形 "
    "椭圆 长方形 箭头 线 螺旋 蛋糕 咖啡 杯子 帽子 吉他 钢琴"
)
_QUALITIES_ZH = "闪亮的 木头的 金色的 银色的 透明的 古老的 漂亮的 可爱的 可怕的 快乐的 神奇的 发光的 现代的 明亮的"
_SYLLABLES = "ka lo mi ren tor vas pel dun gri sho fy zan ble cru ost ing ed er al ist"
FOREIGN_EN, FOREIGN_ZH, SYLLABLES = (words.split() for words in (_NOUNS_EN, _NOUNS_ZH, _SYLLABLES))
QUALITIES_EN, QUALITIES_ZH = (words.split() for words in (_QUALITIES_EN, _QUALITIES_ZH))


def is_kept_back(scene: Scene, said: Said) -> bool:
    """Return whether this combination of parts is in the twentieth of open captions that training never sees."""
    parts = {"background": scene.background, "pattern": scene.pattern}
    for which, shape in zip(("first", "second"), scene.shapes, strict=False):
        parts |= {f"kind {which}": shape.kind, f"colour {which}": shape.colour, f"position {which}": shape.position}
    told = "|".join(f"{name} {parts[name]}" for name in sorted(said & parts.keys()))
    return zlib.crc32(told.encode()) % HELD_OUT_SHARE == 0


def foreign_word(dice: random.Random, language: str) -> str:
    """Return a noun that the world does not have: a real one, or sounds."""
    if dice.random() < 0.3:
        return "".join(dice.choices(SYLLABLES, k=dice.randint(2, 4)))
    return dice.choice(FOREIGN_ZH if language == "zh" else FOREIGN_EN)


def foreign_text(dice: random.Random, language: str) -> str:
    """Return words that say nothing about the world: mostly a few, sometimes many."""
    count = dice.choice((1, 1, 2, 3, 5, 8, 15, LONGEST))
    words = [foreign_word(dice, language) for _ in range(count)]
    if language == "zh":
        words = [dice.choice((word, dice.choice(QUALITIES_ZH) + word)) for word in words]
        return dice.choice(("{}", "一个{}", "画{}", "一只{}")).format(
            "，".join(words) if count > 3 else "和".join(words)
        )
    words = [dice.choice((word, f"{dice.choice(QUALITIES_EN)} {word}")) for word in words]
    joined = dice.choice((" and ", " with ", " in the ", ", ", " ")).join(words)
    return dice.choice(("{}", a(joined), f"a picture of {a(joined)}", f"draw {a(joined)}")).format(joined)


def _thing(shape: Shape, told: Said, dice: random.Random, language: str) -> str:
    """Name a shape by what is told of it; what is not may be something foreign instead."""
    foreign = dice.random() < FOREIGN_SHARE
    if language == "zh":
        size = SIZES_ZH[shape.size]
        quality = dice.choice(QUALITIES_ZH) if foreign and dice.random() < 0.4 else ""
        colour = COLOURS_ZH[shape.colour] + dice.choice(("", "的")) if "colour" in told else quality
        kind = foreign_word(dice, language) if foreign else dice.choice(THINGS_ZH)
        return f"一个{size}{colour}{SHAPES_ZH[shape.kind] if 'kind' in told else kind}"
    quality = dice.choice(QUALITIES_EN) if foreign and dice.random() < 0.4 else ""
    words = [
        shape.size if shape.size != "medium" else "",
        shape.colour if "colour" in told else quality,
        shape.kind if "kind" in told else foreign_word(dice, language) if foreign else dice.choice(THINGS_EN),
    ]
    return a(" ".join(word for word in words if word))


def _told(dice: random.Random) -> Said:
    return frozenset(dice.choice((("kind",), ("kind",), ("colour",), ("colour", "kind"), ())))


def _sentence_about_two(scene: Scene, dice: random.Random, language: str) -> tuple[str, Said]:
    grounded = scene.background != "white" or scene.pattern != "plain" or dice.random() < 0.6
    first, second = scene.shapes
    told = [_told(dice), _told(dice)]
    said = {f"{part} {which}" for which, parts in zip(("first", "second"), told, strict=True) for part in parts}
    said |= {f"{part} {which}" for part in ("position", "size") for which in ("first", "second")}
    things = [_thing(shape, parts, dice, language) for shape, parts in zip(scene.shapes, told, strict=True)]
    phrases = {"first": things[0], "second": things[1], "relation": RELATIONS_EN[first.position]}
    if language == "zh":
        phrases |= {"here": POSITIONS_ZH[first.position], "there": POSITIONS_ZH[second.position]}
        text = dice.choice(TWO_ZH).format(**phrases)
        text = f"{ground_zh(scene, dice)}上，{text}" if grounded else text
    else:
        text = dice.choice(TWO_EN).format(on=f" on {ground_en(scene, dice)}" if grounded else "", **phrases)
    return text, frozenset(said | {"background", "pattern", "count"})


def _sentence_about_one(scene: Scene, dice: random.Random, language: str) -> tuple[str, Said]:
    (shape,) = scene.shapes
    told = _told(dice)
    grounded = scene.background != "white" or scene.pattern != "plain" or dice.random() < 0.6
    placed = shape.position != "center" or dice.random() < 0.3
    said = frozenset(f"{part} first" for part in (*told, "position", "size")) | {"background", "pattern", "count"}
    if not (told or placed or shape.size != "medium") and grounded and dice.random() < 0.5:
        return (ground_zh if language == "zh" else ground_en)(scene, dice), said
    thing = _thing(shape, told, dice, language)
    if language == "zh":
        forms = {(0, 0): ONE_ZH, (0, 1): PLACED_ZH, (1, 0): GROUNDED_ZH, (1, 1): BOTH_ZH}[grounded, placed]
        ground, where = ground_zh(scene, dice), POSITIONS_ZH[shape.position]
        return dice.choice(forms).format(thing=thing, ground=ground, where=where), said
    ground, where = ground_en(scene, dice), f" {POSITIONS_EN[shape.position]}" if placed else ""
    forms = (*ONE_EN, *GROUND_FIRST_EN) if grounded else ONE_EN
    on = f" on {ground}" if grounded else ""
    return dice.choice(forms).format(thing=thing, on=on, ground=ground, where=where), said


def sentence(scene: Scene, dice: random.Random, language: str) -> tuple[str, Said]:
    """Return an open caption of a scene with shapes, and the parts of it that it decides, by name as in SCENE_PARTS.

    Shapes that stand neither side by side nor one above the other have none: see `has_sentences`.
    """
    about = _sentence_about_one if len(scene.shapes) == 1 else _sentence_about_two
    text, said = about(scene, dice, language)
    if language == "zh":
        return text + dice.choice(("", "", "。")), said
    return (text[0].upper() + text[1:] if dice.random() < 0.15 else text) + dice.choice(("", "", "", ".", "!")), said


def has_sentences(scene: Scene) -> bool:
    """Return whether open captions can say where a scene's shapes are."""
    return len(scene.shapes) == 1 or tuple(shape.position for shape in scene.shapes) in PAIRS


def is_default(scene: Scene) -> bool:
    """Return whether a scene is what words that say nothing give: one medium shape in the center on plain white."""
    return (scene.background, scene.pattern, len(scene.shapes)) == ("white", "plain", 1) and (
        scene.shapes[0].position,
        scene.shapes[0].size,
    ) == ("center", "medium")


def draw_open_scene(dice: random.Random) -> Scene:
    """Sample a scene of the training split to be captioned openly, almost half of them as drawn by default."""
    while True:
        scene = draw_scene(dice, pair_share=0.3)
        if dice.random() < 0.45:
            colour = dice.choice([colour for colour in COLOURS if colour != "white"])
            scene = Scene((Shape(scene.shapes[0].kind, colour),))
        if not is_held_out(scene):
            return scene


def bare_words(scene: Scene, dice: random.Random, language: str) -> tuple[str, Said]:
    """Return bare words for a part of a scene's first shape or its ground, and that part."""
    shape = scene.shapes[0]
    text, said = dice.choice(list((BARE_ZH if language == "zh" else BARE_EN).items()))
    colours = COLOURS_ZH if language == "zh" else {colour: colour for colour in COLOURS_ZH}
    kind = SHAPES_ZH[shape.kind] if language == "zh" else shape.kind
    if "background" in said and scene.pattern != "plain":
        return bare_words(scene, dice, language)
    colour = colours[scene.background if "background" in said else shape.colour]
    return text.format(colour=colour, kind=kind), frozenset(
        part if part in ("background", "pattern") else f"{part} first" for part in said
    )


def open_caption(scene: Scene, dice: random.Random, language: str) -> tuple[str, Said]:
    """Return an open caption in "en" or "zh" that training may see, and the parts of the scene that it decides."""
    while True:
        chance = dice.random()
        if is_default(scene) and chance < 0.4:
            return foreign_text(dice, language), frozenset(
                {"count", "background", "pattern", "position first", "size first"}
            )
        if has_sentences(scene) and chance < 0.85:
            text, said = sentence(scene, dice, language)
        else:
            text, said = bare_words(scene, dice, language)
        if len(said) < 3 or not is_kept_back(scene, said):
            return text, said
