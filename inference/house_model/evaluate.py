"""Measures how well the house model follows prompts: `python -m inference.house_model.evaluate`.

The figure is the share of held-out captions, of combinations never trained on, whose picture the judge finds right.
Captions alternate in language, number of shapes and picture size. Pictures come from the engine, in batches.
"""

import argparse
import random
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from inference.engine import BatchReport, Engine
from inference.house_model import fidelity
from inference.house_model.captions import COLOURS_ZH, LANGUAGES, POSITIONS_EN, caption
from inference.house_model.edits import VERBS, Edit, draw_edit, instruction
from inference.house_model.judge import Verdict, is_clear, judge, read
from inference.house_model.open_captions import Said, draw_open_scene, is_kept_back, sentence
from inference.house_model.world import POSITIONS, SHAPES, Scene, Shape, draw_scene, render
from inference.models import catalog
from inference.request import Operation, Request

SIZES = ((128, 128), (192, 128), (128, 192), (192, 192), (256, 256), (384, 384), (512, 384), (512, 512))
PARTS = ("background", "shape", "colour", "position", "followed")
COLUMNS, ROWS = 6, 4
PICTURE, MARGIN, LINES = 192, 24, 4
TEXT_SIZE = 13
# words that the world does not have, and that training never saw either
FOREIGN = (
    "a hexagon", "an astronaut", "a dog", "a castle on a hill", "a spaceship", "an umbrella in the wind", "a clock",
    "a hexagon on a blue background", "a red dragon on a white background", "hello world", "a bicycle, oil on canvas",
    "a zebra in a busy market in Tokyo at night, cinematic, 8k, highly detailed", "qwertz uiop", "a green mug",
    "六边形", "宇航员", "一只狗", "城堡", "一条红色的龙在白色背景上", "雨中的伞", "一座灯塔，日落，高清",
    "蓝色背景上有一辆自行车",
    "Ein Fuchs springt über den Zaun", "😀", "a teapot to the left of a laptop", "the quick brown fox",
)  # fmt: skip


@dataclass(frozen=True)
class Drawn:
    """A caption in one language, the scene that it describes, its picture, and the judge's verdict."""

    scene: Scene
    language: str
    caption: str
    picture: Image.Image
    verdict: Verdict


@dataclass(frozen=True)
class Sampling:
    """How pictures are made."""

    steps: int
    guidance: float


@dataclass(frozen=True)
class Counts:
    """How many of everything are measured: seeds of the same prompts, and pictures drawn for the autoencoder."""

    captions: int = 500
    opened: int = 200
    edits: int = 400
    seeds: int = 4
    drawn: int = 400


QUICK = Counts(captions=40, opened=32, edits=40, seeds=1, drawn=64)


def draw(engine: Engine, captions: int, sampling: Sampling) -> list[Drawn]:
    """Draw held-out captions, a fifth of them with two shapes; the same captions and seeds every time."""
    dice = random.Random(11)
    scenes = [draw_scene(dice, held_out=True, pair_share=float(index // 2 % 5 == 0)) for index in range(captions)]
    languages = [LANGUAGES[index % 2] for index in range(captions)]
    prompts = [caption(scene, dice, language) for scene, language in zip(scenes, languages, strict=True)]
    sizes = [SIZES[index // 10 % len(SIZES)] for index in range(captions)]
    pictures = _pictures(engine, prompts, sampling, sizes)
    verdicts = [judge(scene, np.asarray(picture)) for scene, picture in zip(scenes, pictures, strict=True)]
    return [Drawn(*row) for row in zip(scenes, languages, prompts, pictures, verdicts, strict=True)]


def shares(drawn: Sequence[Drawn]) -> dict[str, Any]:
    """Return the shares of right pictures: overall, and by part of the scene, language, number of shapes and size."""

    def followed(some: Iterable[Drawn]) -> float:
        return _mean(one.verdict.followed for one in some)

    by_size = {size: [one for one in drawn if one.picture.size == size] for size in SIZES}
    return {
        "captions": len(drawn),
        **{part: _mean(getattr(one.verdict, part) for one in drawn) for part in PARTS},
        **{language: followed(one for one in drawn if one.language == language) for language in LANGUAGES},
        "one shape": followed(one for one in drawn if len(one.scene.shapes) == 1),
        "two shapes": followed(one for one in drawn if len(one.scene.shapes) == 2),
        **{f"{width}x{height}": followed(some) for (width, height), some in by_size.items()},
    }


def negative(engine: Engine, sampling: Sampling, seeds: int = 4) -> dict[str, float]:
    """Return the shares of pictures with a red shape for captions that leave the colour open, without and with a
    negative prompt that names it."""
    prompts = [
        f"a {kind} {POSITIONS_EN[place]} on a white background" for kind in SHAPES for place in POSITIONS
    ] * seeds

    def red(negative_prompt: str) -> float:
        pictures = _pictures(engine, prompts, sampling, [SIZES[0]] * len(prompts), negative_prompt)
        return _mean(any(shape.colour == "red" for shape in read(np.asarray(each)).shapes) for each in pictures)

    return {
        "open captions": len(prompts),
        **{f"red, negative prompt {word!r}": red(word) for word in ("", "red", COLOURS_ZH["red"])},
    }


def opened(engine: Engine, count: int, sampling: Sampling) -> dict[str, Any]:
    """Return the share of open captions, of combinations never trained on, whose picture shows what they say.

    What they leave open may be anything, but a shape must be there for each that is named, and no other.
    """
    dice = random.Random(29)
    asked: list[tuple[Scene, str, Said]] = []
    while len(asked) < count:
        scene, language = draw_open_scene(dice), LANGUAGES[len(asked) % 2]
        prompt, said = sentence(scene, dice, language)
        if is_kept_back(scene, said):
            asked.append((scene, prompt, said))
    sizes = [SIZES[index // 10 % len(SIZES)] for index in range(count)]
    pictures = _pictures(engine, [prompt for _, prompt, _ in asked], sampling, sizes)
    right = [_shows(row[0], row[2], read(np.asarray(each))) for row, each in zip(asked, pictures, strict=True)]
    return {
        "open captions": count,
        "followed": _mean(right),
        "clear": _mean(is_clear(np.asarray(each)) for each in pictures),
        **{name: _mean(right[start::2]) for start, name in enumerate(LANGUAGES)},
        "one shape": _mean(r for r, (scene, _, _) in zip(right, asked, strict=True) if len(scene.shapes) == 1),
        "two shapes": _mean(r for r, (scene, _, _) in zip(right, asked, strict=True) if len(scene.shapes) == 2),
    }


def _shows(wanted: Scene, said: Said, seen: Scene) -> bool:
    """Return whether a scene has all that an open caption decides."""
    if len(seen.shapes) != len(wanted.shapes) or ("background" in said and seen.background != wanted.background):
        return False
    return any(
        all(
            getattr(shape, part) == getattr(other, part)
            for which, shape, other in zip(("first", "second"), wanted.shapes, order, strict=False)
            for part in ("kind", "colour", "position")
            if f"{part} {which}" in said
        )
        for order in (seen.shapes, seen.shapes[::-1])
    )


def foreign(engine: Engine, sampling: Sampling, seeds: int = 4) -> dict[str, float]:
    """Return the share of prompts with words that the world does not have whose picture is a clear scene of it."""
    prompts = list(FOREIGN) * seeds
    sizes = [SIZES[index % len(SIZES)] for index in range(len(prompts))]
    pictures = _pictures(engine, prompts, sampling, sizes)
    return {"prompts": len(prompts), "clear": _mean(is_clear(np.asarray(each)) for each in pictures)}


def edit(engine: Engine, edits: int, sampling: Sampling) -> dict[str, Any]:
    """Return the shares of edits towards held-out scenes that did what was asked, left the rest as it was, and both.

    Also by verb. The pictures to edit are rendered, not generated; languages and sizes alternate.
    """
    dice = random.Random(17)
    asked = [draw_edit(dice, held_out=True) for _ in range(edits)]
    texts = [instruction(each, dice, LANGUAGES[index % 2]) for index, each in enumerate(asked)]
    sizes = [SIZES[index // 10 % len(SIZES)] for index in range(edits)]
    given = [Image.fromarray(render(each.before, *size)) for each, size in zip(asked, sizes, strict=True)]
    pictures = _pictures(engine, texts, sampling, sizes, images=given)
    seen = [read(np.asarray(picture)) for picture in pictures]
    done = [_done(each, scene) for each, scene in zip(asked, seen, strict=True)]
    kept = [_kept(each, scene) for each, scene in zip(asked, seen, strict=True)]
    both = [first and second for first, second in zip(done, kept, strict=True)]
    return {
        "edits": edits,
        "did what was asked": _mean(done),
        "left the rest": _mean(kept),
        "both": _mean(both),
        **{verb: _mean(b for b, each in zip(both, asked, strict=True) if each.verb == verb) for verb in VERBS},
        **{name: _mean(both[start::2]) for start, name in enumerate(LANGUAGES)},
        **{
            f"{width}x{height}": _mean(b for b, size in zip(both, sizes, strict=True) if size == (width, height))
            for width, height in SIZES
        },
    }


def _done(asked: Edit, seen: Scene) -> bool:
    """Return whether the background, or the shape that was named, is as asked (a removed shape: gone)."""
    if asked.verb == "background":
        return seen.background == asked.after.background
    if asked.now is None:
        return len(seen.shapes) == len(asked.after.shapes) and not any(_same(asked.was, one) for one in seen.shapes)
    return any(_same(asked.now, one) for one in seen.shapes)


def _kept(asked: Edit, seen: Scene) -> bool:
    """Return whether everything that was not named is as it was, and nothing was added."""
    others = [shape for shape in asked.before.shapes if shape is not asked.was]
    return (
        (asked.verb == "background" or seen.background == asked.before.background)
        and all(any(_same(shape, one) for one in seen.shapes) for shape in others)
        and len(seen.shapes) <= len(asked.before.shapes)
    )


def _same(wanted: Shape | None, seen: Shape) -> bool:
    """Return whether two shapes are the same to the judge, which does not read sizes."""
    return wanted is not None and replace(wanted, size=seen.size) == seen


def sheet(drawn: Sequence[Drawn]) -> Image.Image:
    """Draw a contact sheet: the first English captions under their pictures, red if not followed; not a selection."""
    # Pillow's own font has no Chinese
    shown = [one for one in drawn if one.language == "en"][: COLUMNS * ROWS]
    font = ImageFont.load_default(TEXT_SIZE)
    cell, line = PICTURE + MARGIN, TEXT_SIZE + 4
    height = PICTURE + LINES * line + MARGIN
    rows = -(-len(shown) // COLUMNS)
    whole = Image.new("RGB", (COLUMNS * cell + MARGIN, rows * height + MARGIN), "white")
    pen = ImageDraw.Draw(whole)
    for index, one in enumerate(shown):
        x, y = MARGIN + index % COLUMNS * cell, MARGIN + index // COLUMNS * height
        fitted = ImageOps.contain(one.picture, (PICTURE, PICTURE))
        left, top = x + (PICTURE - fitted.width) // 2, y + (PICTURE - fitted.height) // 2
        whole.paste(fitted, (left, top))
        pen.rectangle((left, top, left + fitted.width - 1, top + fitted.height - 1), outline=(215, 215, 215))
        ink = (60, 60, 60) if one.verdict.followed else (190, 30, 30)
        for number, text in enumerate(_wrapped(one.caption, font)[:LINES]):
            pen.text((x, y + PICTURE + 6 + number * line), text, ink, font)
    return whole


def evaluate(
    model: str | Path | None = None,
    counts: Counts = Counts(),
    steps: Sequence[int] = (),
    guidance: float | None = None,
    *,
    sheet_path: Path | None = None,
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Measure a model part by part, and yield each part's title and figures when it is done.

    All but captions use the first of `steps` (the model's default if there are none). The contact sheet of captions is
    written if a path is given.
    """
    card = catalog.card(model)
    guidance = guidance or card.default_guidance_scale
    tried = [Sampling(each, guidance) for each in steps or [card.default_steps]]
    yield f"{card.name} {card.revision}, guidance {guidance:g}: autoencoder", fidelity.measure(card.path, counts.drawn)
    reports: list[BatchReport] = []
    with Engine(card.path, on_batch=reports.append) as engine:
        yield "negative prompts", negative(engine, tried[0], counts.seeds)
        yield "open captions", opened(engine, counts.opened, tried[0])
        yield "words that the world does not have", foreign(engine, tried[0], counts.seeds)
        yield "edits", edit(engine, counts.edits, tried[0])
        for sampling in tried:
            reports.clear()
            drawn = draw(engine, counts.captions, sampling)
            if sheet_path and sampling is tried[0]:
                sheet(drawn).save(sheet_path, optimize=True)
            yield f"{sampling.steps} steps", shares(drawn) | {"ms a step": _step_milliseconds(reports)}


def _pictures(
    engine: Engine,
    prompts: Sequence[str],
    sampling: Sampling,
    sizes: Sequence[tuple[int, int]],
    negative_prompt: str = "",
    images: Sequence[Image.Image] = (),
) -> list[Image.Image]:
    """Make one picture a prompt; if there are `images`, each prompt edits its own one."""
    futures = [
        engine.submit(
            Request(
                prompt,
                negative_prompt=negative_prompt,
                width=width,
                height=height,
                steps=sampling.steps,
                guidance_scale=sampling.guidance,
                seed=seed,
                operation=Operation.EDIT if images else Operation.GENERATE,
                images=(images[seed],) if images else (),
            )
        )
        for seed, (prompt, (width, height)) in enumerate(zip(prompts, sizes, strict=True))
    ]
    return [future.result().image for future in futures]


def _step_milliseconds(reports: Sequence[BatchReport]) -> float:
    """Return the time of a denoising step per picture, in batches."""
    steps = [report for report in reports if report.phase == "denoise"]
    return round(1000 * sum(report.seconds for report in steps) / sum(report.rows for report in steps), 2)


def _mean(values: Iterable[bool]) -> float:
    chosen = list(values)
    return round(sum(chosen) / len(chosen), 4) if chosen else 0.0


def _wrapped(text: str, font: ImageFont.ImageFont | ImageFont.FreeTypeFont) -> list[str]:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= PICTURE:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure how well the house model follows prompts.")
    parser.add_argument("--captions", type=int, help=f"held-out captions (default: {Counts.captions})")
    parser.add_argument("--opened", type=int, help=f"open captions (default: {Counts.opened})")
    parser.add_argument("--edits", type=int, help=f"edits towards held-out scenes (default: {Counts.edits})")
    parser.add_argument("--quick", action="store_true", help="a tenth of everything, in a few minutes")
    parser.add_argument("--steps", type=int, nargs="+", default=[], help="denoising steps (default: the model's)")
    parser.add_argument("--guidance", type=float, help="guidance scale (default: the model's)")
    parser.add_argument("--model", help="a folder (default: KILN_MODEL, else the house model)")
    parser.add_argument("--sheet", type=Path, help="where to write a contact sheet, as PNG")
    chosen = parser.parse_args()
    given = {name: getattr(chosen, name) for name in ("captions", "opened", "edits")}
    counts = replace(
        QUICK if chosen.quick else Counts(), **{name: count for name, count in given.items() if count is not None}
    )
    for title, figures in evaluate(chosen.model, counts, chosen.steps, chosen.guidance, sheet_path=chosen.sheet):
        sys.stdout.write(f"{title}\n")
        for name, value in figures.items():
            sys.stdout.write(f"{name:>44}  {value}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
