"""The documentation's page of the words that the house model knows: `python -m inference.house_model.words`."""

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path

from PIL import Image

from inference.house_model.captions import (
    COLOURS_ZH,
    PATTERNS_ZH,
    POSITIONS_EN,
    POSITIONS_ZH,
    RELATIONS_EN,
    SHAPES_ZH,
    SIZES_ZH,
)
from inference.house_model.edits import PHRASES_EN, PHRASES_ZH
from inference.house_model.world import COLOURS, PATTERNS, POSITIONS, SHAPES, SIZES, Scene, Shape, render

PAGE = "house-model-words.md"
PICTURE = "images/house-model-words.png"
SIDE = 96
INTRODUCTION = f"""# The words that the house model knows
The small model that ships with Kiln draws one or two flat shapes on a background. It was taught these words, in
English and in Chinese, and no others; Qwen-Image itself has no such list. What a prompt does not say has a default
where there is one: a medium shape, in the center, on plain white.

![Every colour, shape, place, size and background]({PICTURE})

*As its world defines them, in the order of the tables; not drawn by the model.*
"""
EDITS = """
## Edits
Of a picture that is sent along. Where two shapes are of one kind, their colour tells them apart.
"""
HEAD = "\n| English | 中文 |\n| --- | --- |\n"


def page() -> str:
    """Return the page in Markdown."""
    places = [(POSITIONS_EN[name], POSITIONS_ZH[name]) for name in POSITIONS]
    sizes = [(name, SIZES_ZH[name] or "(unsaid)") for name in SIZES]
    patterns = [(name, PATTERNS_ZH[name] or "(unsaid)") for name in PATTERNS]
    relations = [(RELATIONS_EN[name], f"在…的{POSITIONS_ZH[name]}") for name in RELATIONS_EN]
    tables = (
        ("Colours", ((name, COLOURS_ZH[name]) for name in COLOURS)),
        ("Shapes", ((name, SHAPES_ZH[name]) for name in SHAPES)),
        ("Places", places),
        ("Places of two shapes", relations),
        ("Sizes", sizes),
        ("Backgrounds", patterns),
    )
    edits = ((_told(PHRASES_EN[verb]), _told(PHRASES_ZH[verb])) for verb in PHRASES_EN)
    sections = "".join(f"\n## {title}\n{_table(rows)}" for title, rows in tables)
    return INTRODUCTION + sections + EDITS + _table(edits)


def _table(rows: Iterable[tuple[str, str]]) -> str:
    return HEAD + "".join(f"| {english} | {chinese} |\n" for english, chinese in rows)


def _told(phrases: Sequence[str]) -> str:
    """Return the phrasings of an edit with an example in each gap."""
    english = phrases[0].isascii()
    gaps = (
        {"target": "circle", "colour": "green", "kind": "a heart", "place": "top left corner"}
        if english
        else {"target": "圆形", "colour": "绿色", "kind": "心形", "place": "左上角"}
    )
    return ", ".join(f"*{phrase.format(**gaps)}*" for phrase in phrases)


def picture() -> Image.Image:
    """Draw a row each of colours, shapes, places, sizes and backgrounds."""
    lines = (
        [
            Scene((Shape("circle", colour, size="large"),), "black" if colour == "white" else "white")
            for colour in COLOURS
        ],
        [Scene((Shape(kind, "blue", size="large"),)) for kind in SHAPES],
        [Scene((Shape("square", "red", position, "small"),)) for position in POSITIONS],
        [Scene((Shape("star", "purple", size=size),)) for size in SIZES]
        + [Scene((), "yellow", pattern) for pattern in PATTERNS],
    )
    sheet = Image.new("RGB", (max(map(len, lines)) * (SIDE + 4) - 4, len(lines) * (SIDE + 4) - 4), "lightgray")
    for y, line in enumerate(lines):
        for x, scene in enumerate(line):
            sheet.paste(Image.fromarray(render(scene, SIDE, SIDE)), (x * (SIDE + 4), y * (SIDE + 4)))
    return sheet


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the page of the words that the house model knows.")
    parser.add_argument("--docs", type=Path, default=Path("docs"), help="the folder of the documentation")
    folder = parser.parse_args().docs
    (folder / PAGE).write_text(page(), encoding="utf-8")
    picture().quantize(64).save(folder / PICTURE, optimize=True)


if __name__ == "__main__":
    main()
