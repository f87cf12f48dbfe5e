"""Which prompts never share latents, however alike their embeddings are."""

import random

import pytest

from inference.house_model.captions import caption
from inference.house_model.world import draw_scene
from inference.latent_cache import numerals
from inference.latent_cache.wording import signature


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("a red circle on a white background", "白色背景上有一个红色的圆形"),
        ("a gray cat", "the grey cat."),
        ("two cats", "两只猫"),
        ("a picture of a cross", "一个十字"),
        ("a pink rose", "一朵粉红色的玫瑰"),
        ("a street without cars", "no cars in the street"),
        ('a sign that says "OPEN"', "a sign saying “OPEN”"),
        ("the king's crown", "a crown of the king"),
        ("a cat on the mat", "the cat on one mat"),
        ("thirteen cats", "13 cats"),
        ("thirty-two cats", "三十二只猫"),
        ("two cats and a dog", "两只猫和一只狗"),
        ("2,000 stars", "two thousand stars"),
        ("2,000 stars", "２０００ stars"),
        ("a pair of shoes", "一双鞋"),
        ("the year 2024", "二零二四年"),
        ("a cat that cannot fly", "一只不会飞的猫"),
        ("a lavender dress", "薰衣草色的连衣裙"),
        ("red cats and blue dogs", "blue dogs and red cats"),
        ("紅色的貓", "红色的猫"),
        ("a sign that says 'Привет'", "a sign saying “Привет”"),
        ("a small café", "The small café!"),
    ],
)
def test_the_same_said_otherwise_may_share(one, other):
    assert signature(one) == signature(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("a red circle", "a blue circle"),
        ("红色的圆形", "粉红色的圆形"),
        ("a red circle", "蓝色的圆形"),
        ("a red circle and a red square", "a red circle and a square"),
        ("two cats", "three cats"),
        ("两只猫", "三只猫"),
        ("bus 17", "bus 71"),
        ("a street with cars", "a street without cars"),
        ("他戴帽子", "他没戴帽子"),
        ("a man who doesn't smile", "a man who does smile"),
        ('a sign that says "OPEN"', 'a sign that says "CLOSED"'),
        ("写着「开」的牌子", "写着「关」的牌子"),
        ("十三只猫", "三十只猫"),
        ("thirteen cats", "thirty cats"),
        ("twenty cats", "twenty-one cats"),
        ("两三只猫", "二十三只猫"),
        ("2 cats and 3 dogs", "3 cats and 2 dogs"),
        ("two cats and three dogs", "三只猫和两只狗"),
        ("a cat and two dogs", "two cats and a dog"),
        ("一只猫和两只狗", "两只猫和一只狗"),
        ("a bird that can fly", "a bird that cannot fly"),
        ("a lavender dress", "a dress"),
        ("a teal car", "an indigo car"),
        ("一个red的球", "一个blue的球"),
        ("紅色的貓", "綠色的貓"),
        ("六边形", "五边形"),
        ("a 🔴 on a shelf", "a 🔵 on a shelf"),
    ],
)
def test_colours_numbers_negations_and_quoted_texts_must_be_the_same(one, other):
    assert signature(one) != signature(other)


@pytest.mark.parametrize(
    "prompt",
    [
        "красный круг",
        "قطة حمراء",
        "빨간 고양이",
        "赤いねこ",
        "カメラ",
        "แมวแดง",
        "κόκκινη γάτα",
        "लाल बिल्ली",
        "a red кот",
    ],
)
def test_prompts_in_letters_that_the_guard_does_not_know_have_no_signature(prompt):
    assert signature(prompt) is None


def test_english_numbers_are_read_back_from_how_they_are_spelt():
    for value in [*range(2, 1100), *range(1999, 1_000_000, 7919)]:
        assert list(numerals.english(english(value))) == [str(value)]


def english(value):
    """Spell a number below a million."""
    units = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"
    small = [*units.split(), "seventeen", "eighteen", "nineteen"]
    tens = ["-", "-", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
    if value < 20:
        return small[value]
    if value < 100:
        return tens[value // 10] + (f"-{small[value % 10]}" if value % 10 else "")
    scale, name = (1000, "thousand") if value >= 1000 else (100, "hundred")
    rest = value % scale
    joint = " and " if rest < 100 else " "
    return f"{english(value // scale)} {name}" + (joint + english(rest) if rest else "")


@pytest.mark.parametrize(
    ("said", "value"),
    [("十", 10), ("十三", 13), ("三十", 30), ("一百零五", 105), ("一百五", 150), ("三千二", 3200), ("两万五千", 25000),
     ("一万三千", 13000), ("二千零二十四", 2024), ("一亿二千万", 120_000_000), ("一九八四", 1984), ("两双", 4)],
)  # fmt: skip
def test_chinese_numbers_are_read_by_place_value(said, value):
    assert list(numerals.chinese(said)) == [str(value)]


@pytest.mark.parametrize(
    ("said", "values"),
    [("two three", ["2", "3"]), ("two and three", ["2", "3"]), ("two hundred three hundred", ["200", "300"]),
     ("a dozen", ["12"]), ("three pairs", ["6"]), ("a thousand and one", ["1001"])],
)  # fmt: skip
def test_neighbouring_numbers_stay_apart(said, values):
    assert list(numerals.english(said)) == values


def test_nearly_all_paraphrases_of_a_scene_share_their_signature():
    dice = random.Random(3)
    scenes = [draw_scene(dice) for _ in range(300)]
    same = [signature(caption(scene, dice, "en")) == signature(caption(scene, dice, "zh")) for scene in scenes]
    assert sum(same) >= 0.95 * len(same)
