"""Words that an embedding blurs and a customer does not: two prompts that differ in them never share latents.

Colours, numbers, negations and quoted text, in English and Chinese, each under one name for both. A prompt is known
by its signature alone, from which nobody reads it back.
"""

import hashlib
import re
import unicodedata
from collections.abc import Iterator

COLOURS = {
    "red": "red scarlet crimson 红色 红",
    "darkred": "maroon burgundy 酒红 暗红",
    "orange": "orange 橙色 橘色 橙 橘",
    "yellow": "yellow 黄色 黄",
    "gold": "gold golden 金色 金黄",
    "green": "green 绿色 绿",
    "olive": "olive 橄榄绿",
    "cyan": "cyan turquoise teal aqua 青色 青绿 青",
    "blue": "blue 蓝色 蓝",
    "navy": "navy 深蓝 藏青",
    "azure": "azure 天蓝",
    "purple": "purple violet 紫色 紫",
    "magenta": "magenta 品红 洋红",
    "pink": "pink 粉色 粉红色 粉红 粉",
    "brown": "brown 棕色 褐色 棕 褐",
    "beige": "beige cream ivory 米色 米白",
    "black": "black 黑色 黑",
    "white": "white 白色 白",
    "gray": "gray grey 灰色 灰",
    "silver": "silver 银色",
}
NUMBERS = {
    "2": "two twice double pair couple both 两 二 双 俩",
    "3": "three 三",
    "4": "four 四",
    "5": "five 五",
    "6": "six 六",
    "7": "seven 七",
    "8": "eight 八",
    "9": "nine 九",
    "10": "ten 十",
    "11": "eleven 十一",
    "12": "twelve dozen 十二",
    "100": "hundred hundreds 百",
    "1000": "thousand thousands 千",
}
NEGATIONS = "no not none never without nothing nobody neither nor except n't 没有 没 不 无 非 勿 别 除了"
QUOTES = re.compile(r"[\"“”„«»「」『』‘]([^\"“”„«»「」『』’]+)[\"“”«»「」『』’]|(?<!\w)'([^']+)'(?!\w)")
DIGITS = re.compile(r"\d+(?:[.,:/]\d+)*")
# said together by people who mean no number: 一个 is "a", 十字 is a cross
IDIOMS = "十字 十分 千万 三角 四角 四方 八卦 双手 六边 五边 五角 不锈钢"


def _words() -> dict[str, str]:
    """Every word → what it stands for."""
    tables = {
        "colour": COLOURS,
        "number": NUMBERS,
        "negation": {"not": NEGATIONS},
        "": {"": IDIOMS},
    }
    return {
        word: f"{kind} {name}".strip()
        for kind, table in tables.items()
        for name, words in table.items()
        for word in words.split()
    }


WORDS = _words()


def _pattern() -> re.Pattern[str]:
    latin = sorted((word for word in WORDS if word.isascii() and word != "n't"), key=len, reverse=True)
    others = sorted((word for word in WORDS if not word.isascii()), key=len, reverse=True)
    return re.compile(rf"\b(?:{'|'.join(latin)})\b|n't\b|{'|'.join(others)}")


PATTERN = _pattern()


def signature(prompt: str) -> str:
    """Equal for prompts with the same colours, numbers, negations and quoted texts, each as often, in any order."""
    text = unicodedata.normalize("NFKC", prompt).replace("’t", "'t")
    quoted = [f"quoted {first or second}" for first, second in QUOTES.findall(text)]
    rest = QUOTES.sub(" ", text).lower()
    found = sorted([*quoted, *_found(rest), *(f"number {digits}" for digits in DIGITS.findall(rest))])
    return hashlib.sha256("\n".join(found).encode()).hexdigest()[:32]


def _found(text: str) -> Iterator[str]:
    return (WORDS[word] for word in PATTERN.findall(text) if WORDS[word])
