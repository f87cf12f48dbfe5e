"""Reads numbers in English words and Chinese characters, and writes them in digits.

A run of number words is read by place value: a scale multiplies the smaller parts before it, and what does not fit
below the part before it begins a new number, as in "two three" or 二三十.
"""

import re
from collections.abc import Iterator

PLAIN = {
    "one first 一 壹": 1,
    "two second twice double both twin twins 二 两 俩 贰": 2,
    "three third thrice triple trio 三 仨 叁": 3,
    "four fourth 四 肆": 4,
    "five fifth 五 伍": 5,
    "six sixth 六 陆": 6,
    "seven seventh 七 柒": 7,
    "eight eighth 八 捌": 8,
    "nine ninth 九 玖": 9,
    "ten tenth": 10,
    "eleven eleventh": 11,
    "twelve twelfth": 12,
    "thirteen thirteenth": 13,
    "fourteen fourteenth": 14,
    "fifteen fifteenth": 15,
    "sixteen sixteenth": 16,
    "seventeen seventeenth": 17,
    "eighteen eighteenth": 18,
    "nineteen nineteenth": 19,
    "twenty twentieth 廿": 20,
    "thirty thirtieth 卅": 30,
    "forty fourty fortieth": 40,
    "fifty fiftieth": 50,
    "sixty sixtieth": 60,
    "seventy seventieth": 70,
    "eighty eightieth": 80,
    "ninety ninetieth": 90,
    "zero 零 〇": 0,
}
SCALES = {
    "十 拾": 10,
    "hundred hundreds hundredth 百 佰": 100,
    "thousand thousands thousandth 千 仟": 1000,
    "万": 10_000,
    "million millions": 1_000_000,
    "亿": 100_000_000,
}
# multiply everything before them
GROUPS = {"pair pairs couple couples 双": 2, "dozen dozens": 12}
ARTICLES = ("a", "an")
# 一百五 is 150
NEXT_LOWER = {"百": "十", "千": "百", "万": "千", "亿": "千万"}


def _table(rows: dict[str, int]) -> dict[str, int]:
    return {word: value for words, value in rows.items() for word in words.split()}


PLAIN_WORDS, SCALE_WORDS, GROUP_WORDS = _table(PLAIN), _table(SCALES), _table(GROUPS)
WORDS = (*PLAIN_WORDS, *SCALE_WORDS, *GROUP_WORDS, *ARTICLES)
ENGLISH = sorted((word for word in WORDS if word.isascii()), key=len, reverse=True)
CHINESE = "".join(word for word in WORDS if not word.isascii())


def english(run: str) -> Iterator[str]:
    """Read the numbers in number words and articles with blanks, hyphens and "and" between them."""
    return _read(re.split(r"[\s-]+", run))


def chinese(run: str) -> Iterator[str]:
    """Read the numbers in a run of characters; three or more digits without a scale are one number, as in years."""
    if len(run) > 2 and all(PLAIN_WORDS.get(character, 10) < 10 for character in run):
        return iter(["".join(str(PLAIN_WORDS[character]) for character in run)])
    scale, digit = run[-2:-1], run[-1]
    short = scale in NEXT_LOWER and 0 < PLAIN_WORDS.get(digit, 0) < 10
    return _read([*run, *(NEXT_LOWER[scale] if short else "")])


def _read(words: list[str]) -> Iterator[str]:
    # the parts of the number being read, each with what the next part has to be below
    parts: list[tuple[int, int]] = []
    joined = False
    for word in words:
        if word == "and":
            joined = True
            continue
        if parts and (word in ARTICLES or (joined and parts[-1][1] <= 10)):
            yield str(_sum(parts))
        joined = False
        if word in GROUP_WORDS:
            parts = parts or [(1, 0)]
            yield str(_sum(parts) * GROUP_WORDS[word])
            continue
        part = _scaled(SCALE_WORDS[word], parts) if word in SCALE_WORDS else _plain(word)
        if part[0] == 0 and parts:
            continue
        if parts and parts[-1][1] <= part[0]:
            yield str(_sum(parts))
        parts.append(part)
    if parts:
        yield str(_sum(parts))


def _plain(word: str) -> tuple[int, int]:
    value = PLAIN_WORDS.get(word, 1)
    return value, 10 if value >= 20 else 0


def _scaled(scale: int, parts: list[tuple[int, int]]) -> tuple[int, int]:
    smaller = 0
    while parts and parts[-1][0] < scale:
        smaller += parts.pop()[0]
    return (smaller or 1) * scale, scale


def _sum(parts: list[tuple[int, int]]) -> int:
    """Return the number that was read, and clear its parts for the next one."""
    total = sum(value for value, _ in parts)
    parts.clear()
    return total
