"""The words that an embedding blurs but a customer does not: prompts that differ in them never share latents.

These are colours, numbers, negations, symbols and quoted text, in English and Chinese, with one name for both. Other
languages are not known: a prompt in letters that are neither Latin nor Chinese shares with none, and one in another
language in Latin letters is judged by its numbers, symbols and quoted text alone. Only a prompt's signature is stored,
from which nobody can read it back.
"""

import hashlib
import re
import unicodedata
from collections.abc import Iterator

from inference.latent_cache import numerals

COLOURS = {
    "red": "red reddish scarlet crimson ruby 红色 红",
    "darkred": "maroon burgundy 酒红 暗红",
    "vermilion": "vermilion vermillion cinnabar 朱红 朱砂",
    "orange": "orange orangey 橙色 橘色 橙 橘",
    "amber": "amber 琥珀",
    "apricot": "apricot 杏色 杏黄 杏",
    "peach": "peach 桃色",
    "coral": "coral 珊瑚",
    "salmon": "salmon 鲑红 三文鱼",
    "yellow": "yellow yellowish 黄色 黄",
    "gold": "gold golden 金色 金黄 黄金",
    "mustard": "mustard 芥末黄 芥末",
    "ochre": "ochre ocher 赭石 赭",
    "green": "green greenish 绿色 绿",
    "olive": "olive 橄榄绿 橄榄",
    "lime": "lime 青柠",
    "chartreuse": "chartreuse 黄绿",
    "mint": "mint 薄荷绿 薄荷",
    "emerald": "emerald 翠绿 祖母绿",
    "jade": "jade 翡翠 玉",
    "khaki": "khaki 卡其",
    "cyan": "cyan turquoise teal aqua aquamarine 青色 青绿 青",
    "blue": "blue bluish 蓝色 蓝",
    "navy": "navy 深蓝 藏青",
    "azure": "azure cerulean 天蓝 蔚蓝",
    "cobalt": "cobalt 钴蓝",
    "ultramarine": "ultramarine 群青",
    "sapphire": "sapphire 宝石蓝 蓝宝石",
    "indigo": "indigo 靛蓝 靛青 靛",
    "purple": "purple purplish violet 紫色 紫",
    "lavender": "lavender 薰衣草紫 薰衣草",
    "lilac": "lilac 丁香紫 丁香",
    "mauve": "mauve 淡紫",
    "plum": "plum 梅紫",
    "magenta": "magenta fuchsia 品红 洋红 紫红",
    "pink": "pink pinkish 粉色 粉红色 粉红 粉",
    "brown": "brown brownish 棕色 褐色 棕 褐",
    "chocolate": "chocolate 巧克力",
    "tan": "tan 黄褐",
    "taupe": "taupe 灰褐",
    "sepia": "sepia 深褐",
    "rust": "rust rusty 铁锈 生锈",
    "bronze": "bronze 青铜 古铜",
    "copper": "copper 紫铜 铜",
    "beige": "beige cream ivory 米色 米白 象牙",
    "black": "black blackish ebony 黑色 黑",
    "charcoal": "charcoal 炭黑 炭灰 木炭",
    "white": "white whitish 白色 白",
    "gray": "gray grey grayish greyish grayscale greyscale 灰色 灰",
    "silver": "silver 银色 白银",
    "many": "colorful colourful multicolored multicoloured multicolor rainbow 彩色 五彩 七彩 多彩 彩虹",
    "one": "monochrome 单色",
}
NEGATIONS = (
    "no not none never without nothing nobody nowhere neither nor except cannot lacking absent n't "
    "dont doesnt didnt isnt arent wasnt werent cant couldnt wont wouldnt hasnt havent "
    "没有 没 不 无 非 勿 别 未 除了"
)
QUOTES = re.compile(r"[\"“”„«»「」『』‘]([^\"“”„«»「」『』’]+)[\"“”«»「」『』’]|(?<!\w)'([^']+)'(?!\w)")
# expressions that mean no number, colour or negation: 十字 is a cross
IDIOMS = (
    "十字 十分 千万 三角 四方 五角 八卦 双手 百合 万圣 一起 一样 一些 一直 一切 一般 "
    "不锈钢 非常 非洲 特别 别墅 性别 未来 玉米"
)
# traditional characters, as used in Hong Kong and Taiwan, for the simplified ones here
SIMPLIFIED = str.maketrans(
    "紅藍綠黃銀銅鏽鐵藏無沒別兩雙萬億倆貳參陸祖寶", "红蓝绿黄银铜锈铁藏无没别两双万亿俩贰叁陆祖宝"
)


def _words() -> dict[str, str]:
    """Map every word to what it stands for."""
    tables = {"colour": COLOURS, "negation": {"not": NEGATIONS}, "": {"": IDIOMS}}
    return {
        word: f"{kind} {name}".strip()
        for kind, table in tables.items()
        for name, words in table.items()
        for word in words.split()
    }


WORDS = _words()


def _pattern() -> re.Pattern[str]:
    """Match a word, digits, or a run of number words; Latin ones only whole, also between Chinese characters."""
    longest_first = sorted(WORDS, key=len, reverse=True)
    latin = "|".join(word for word in longest_first if word.isascii() and word != "n't")
    chinese = "|".join(word for word in longest_first if not word.isascii())
    number = f"(?:{'|'.join(numerals.ENGLISH)})"
    begins, ends = r"(?<![a-zß-ɏ])", r"(?![a-zß-ɏ])"
    run = rf"{number}{ends}(?:(?:[\s-]+and)?[\s-]+{number}{ends})*"
    return re.compile(
        rf"(?P<word>{begins}(?:{latin}){ends}|n't{ends}|{chinese})"
        rf"|(?P<digits>\d+(?:[.,:/]\d+)*)|{begins}(?P<english>{run})|(?P<chinese>[{numerals.CHINESE}]+)"
    )


PATTERN = _pattern()
BETWEEN_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")


def signature(prompt: str) -> str | None:
    """Return what prompts must have in common to share latents; None if the letters are neither Latin nor Chinese.

    It is equal for prompts with the same colours, negations, symbols and quoted texts, each as often, in any order, and
    the same numbers in the same order.
    """
    text = unicodedata.normalize("NFKC", prompt).replace("’t", "'t")
    rest = QUOTES.sub(" ", text).lower().translate(SIMPLIFIED)
    if not all(map(_readable, rest)):
        return None
    quoted = [f"quoted {first or second}" for first, second in QUOTES.findall(text)]
    symbols = [f"symbol {character}" for character in rest if unicodedata.category(character) == "So"]
    found = list(PATTERN.finditer(rest))
    words = [WORDS[match["word"]] for match in found if match["word"] and WORDS[match["word"]]]
    numbers = [number for match in found for number in _numbers(match)]
    if all(number == "1" for number in numbers) and not any(match["digits"] for match in found):
        numbers = []
    lines = [*sorted([*quoted, *symbols, *words]), *(f"number {number}" for number in numbers)]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:32]


def _readable(character: str) -> bool:
    return not character.isalpha() or unicodedata.name(character, "").startswith(("LATIN", "CJK", "IDEOGRAPHIC"))


def _numbers(match: re.Match[str]) -> Iterator[str]:
    """Read the numbers of a match; beside other numbers "a" and 一 count as one: "a cat and two dogs"."""
    if digits := match["digits"]:
        plain = BETWEEN_THOUSANDS.sub("", digits)
        yield "".join(str(unicodedata.decimal(each, each)) for each in plain).lstrip("0") or "0"
    elif run := match["english"]:
        yield from numerals.english(run)
    elif run := match["chinese"]:
        yield from numerals.chinese(run)
