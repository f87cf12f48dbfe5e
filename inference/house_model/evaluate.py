"""How well the house model draws what it is told: `python -m inference.house_model.evaluate`.

Its figure is the share of held-out captions, of combinations never trained on, whose picture the judge finds right.
Pictures come from the engine, in batches.
"""

import argparse
import random
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKLQwenImage
from PIL import Image, ImageDraw, ImageFont

from inference.engine import BatchReport, Engine
from inference.house_model import vae
from inference.house_model.captions import LANGUAGES, POSITIONS_EN, caption
from inference.house_model.judge import Verdict, judge, read
from inference.house_model.world import POSITIONS, SHAPES, Pixels, Scene, draw_scene, render
from inference.models import catalog
from inference.models.autoencoder import flatten_time
from inference.request import Request

PARTS = ("background", "shape", "colour", "position", "followed")
COLUMNS, ROWS = 6, 4
PICTURE, MARGIN, LINES = 192, 24, 4
TEXT_SIZE = 13


@dataclass(frozen=True)
class Drawn:
    """A caption in one language, the scene it tells, its picture and the judge's verdict."""

    scene: Scene
    language: str
    caption: str
    picture: Image.Image
    verdict: Verdict


def draw(engine: Engine, captions: int, steps: int, guidance: float) -> list[Drawn]:
    """Pictures of held-out captions, the languages in turn; the same captions and seeds every time."""
    dice = random.Random(11)
    scenes = [draw_scene(dice, held_out=True) for _ in range(captions)]
    languages = [LANGUAGES[index % len(LANGUAGES)] for index in range(captions)]
    prompts = [caption(scene, dice, language) for scene, language in zip(scenes, languages, strict=True)]
    pictures = _pictures(engine, prompts, steps, guidance)
    verdicts = [judge(scene, np.asarray(picture)) for scene, picture in zip(scenes, pictures, strict=True)]
    return [Drawn(*row) for row in zip(scenes, languages, prompts, pictures, verdicts, strict=True)]


def shares(drawn: Sequence[Drawn]) -> dict[str, Any]:
    """The share of pictures that are right: in all, by part of the scene, by language and by number of shapes."""

    def followed(some: Iterable[Drawn]) -> float:
        return _mean(one.verdict.followed for one in some)

    return {
        "captions": len(drawn),
        **{part: _mean(getattr(one.verdict, part) for one in drawn) for part in PARTS},
        **{language: followed(one for one in drawn if one.language == language) for language in LANGUAGES},
        "one shape": followed(one for one in drawn if len(one.scene.shapes) == 1),
        "two shapes": followed(one for one in drawn if len(one.scene.shapes) == 2),
    }


def negative(engine: Engine, steps: int, guidance: float) -> dict[str, float]:
    """The share of red shapes on captions that leave the colour open, without and with "red" as negative prompt."""
    prompts = [f"a {kind} {POSITIONS_EN[place]} on a white background" for kind in SHAPES for place in POSITIONS]
    return {
        name: _mean(
            any(shape.colour == "red" for shape in read(np.asarray(picture)).shapes)
            for picture in _pictures(engine, prompts, steps, guidance, negative_prompt)
        )
        for name, negative_prompt in (("red, no negative prompt", ""), ("red, negative prompt red", "red"))
    }


@torch.inference_mode()
def reconstruction(autoencoder: AutoencoderKLQwenImage, count: int = 300) -> float:
    """The share of held-out pictures that the judge still finds right after encoding and decoding."""
    flatten_time(autoencoder)
    dice = random.Random(13)
    scenes = [draw_scene(dice, held_out=True) for _ in range(count)]
    right = []
    for scene in scenes:
        latents = autoencoder.encode(vae.to_tensor(render(scene)[None])).latent_dist.mode()
        right.append(judge(scene, _pixels(autoencoder.decode(latents).sample[0, :, 0])).followed)
    return _mean(right)


def sheet(drawn: Sequence[Drawn]) -> Image.Image:
    """The first English captions under their pictures, in red where not followed; unselected otherwise."""
    # the font that comes with Pillow has no Chinese
    shown = [one for one in drawn if one.language == "en"][: COLUMNS * ROWS]
    font = ImageFont.load_default(TEXT_SIZE)
    cell, line = PICTURE + MARGIN, TEXT_SIZE + 4
    height = PICTURE + LINES * line + MARGIN
    rows = -(-len(shown) // COLUMNS)
    whole = Image.new("RGB", (COLUMNS * cell + MARGIN, rows * height + MARGIN), "white")
    pen = ImageDraw.Draw(whole)
    for index, one in enumerate(shown):
        x, y = MARGIN + index % COLUMNS * cell, MARGIN + index // COLUMNS * height
        whole.paste(one.picture.resize((PICTURE, PICTURE), Image.Resampling.LANCZOS), (x, y))
        pen.rectangle((x, y, x + PICTURE - 1, y + PICTURE - 1), outline=(215, 215, 215))
        ink = (60, 60, 60) if one.verdict.followed else (190, 30, 30)
        for number, text in enumerate(_wrapped(one.caption, font)[:LINES]):
            pen.text((x, y + PICTURE + 6 + number * line), text, ink, font)
    return whole


def evaluate(
    model: str | Path | None = None,
    captions: int = 500,
    steps: int | None = None,
    guidance: float | None = None,
    *,
    check_negative: bool = False,
    sheet_path: Path | None = None,
) -> dict[str, Any]:
    """All figures of a model as one JSON-able dict; writes the contact sheet where a path is given."""
    card = catalog.card(model)
    steps, guidance = steps or card.default_steps, guidance or card.default_guidance_scale
    reports: list[BatchReport] = []
    with Engine(card.path, on_batch=reports.append) as engine:
        drawn = draw(engine, captions, steps, guidance)
        found = shares(drawn) | {"ms a step": _step_milliseconds(reports)}
        if check_negative:
            found |= negative(engine, steps, guidance)
    autoencoder = AutoencoderKLQwenImage.from_pretrained(card.path, subfolder="vae", dtype=torch.float32)
    found["right after encoding and decoding"] = reconstruction(autoencoder)
    if sheet_path:
        sheet(drawn).save(sheet_path, optimize=True)
    return {"model": card.name, "revision": card.revision, "steps": steps, "guidance": guidance, **found}


def _pictures(
    engine: Engine, prompts: Sequence[str], steps: int, guidance: float, negative_prompt: str = ""
) -> list[Image.Image]:
    card = engine.card
    futures = [
        engine.submit(
            Request(
                prompt,
                negative_prompt=negative_prompt,
                width=card.default_width,
                height=card.default_height,
                steps=steps,
                guidance_scale=guidance,
                seed=seed,
            )
        )
        for seed, prompt in enumerate(prompts)
    ]
    return [future.result().image for future in futures]


def _step_milliseconds(reports: Sequence[BatchReport]) -> float:
    """Time of a denoising step for one picture, in batches."""
    steps = [report for report in reports if report.phase == "denoise"]
    return round(1000 * sum(report.seconds for report in steps) / sum(report.rows for report in steps), 2)


def _pixels(picture: torch.Tensor) -> Pixels:
    levels: Pixels = ((picture.clamp(-1, 1) / 2 + 0.5) * 255).round().byte().permute(1, 2, 0).numpy()
    return levels


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
    parser = argparse.ArgumentParser(description="How well the house model draws what it is told.")
    parser.add_argument("--captions", type=int, default=500, help="held-out captions (default: %(default)s)")
    parser.add_argument("--steps", type=int, help="denoising steps (default: the model's)")
    parser.add_argument("--guidance", type=float, help="guidance scale (default: the model's)")
    parser.add_argument("--model", help="a folder (default: KILN_MODEL, else the house model)")
    parser.add_argument("--sheet", type=Path, help="where to write a contact sheet, as PNG")
    parser.add_argument("--negative", action="store_true", help="also try the negative prompt")
    chosen = parser.parse_args()
    found = evaluate(
        chosen.model,
        chosen.captions,
        chosen.steps,
        chosen.guidance,
        check_negative=chosen.negative,
        sheet_path=chosen.sheet,
    )
    for name, value in found.items():
        sys.stdout.write(f"{name:>34}  {value}\n")


if __name__ == "__main__":
    main()
