"""Trains an adapter for each style of the house model's world, and measures it: `python -m inference.training.styles`.

A style is learnt from its training pictures, drawn from scenes of the training split. Then held-out captions are drawn
with the adapter by the engine, and two shares are told: in the style, and following the caption. Beside them stand the
same shares of true drawings that went through the autoencoder, of the base's own pictures with the style pasted on, and
of the base's own pictures as they are.
"""

import argparse
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from diffusers import AutoencoderKLQwenImage
from PIL import Image

from inference.card import ModelCard
from inference.engine import Engine
from inference.house_model import fidelity, styles
from inference.house_model.captions import LANGUAGES, caption
from inference.house_model.style_judge import follows, in_style, pasted
from inference.house_model.styles import STYLES
from inference.house_model.world import SHAPES, Pixels, Scene, draw_scene
from inference.models import catalog, qwen_image
from inference.models.autoencoder import flatten_time
from inference.request import Request
from inference.training.examples import Example
from inference.training.hyperparameters import suited
from inference.training.samples import Sample
from inference.training.trainer import Trainer


class Lesson(NamedTuple):
    """How a style is taught: how many pictures, and at how many pixels squared they are learnt and drawn."""

    pictures: int
    side: int


# pictures by which a training's averages are judged
JUDGED = 8
LESSONS = {
    "outlined": Lesson(24, 256),
    "palette": Lesson(12, 128),
    "frame": Lesson(12, 192),
    "dot": Lesson(24, 256),
}


def examples(name: str, seed: int) -> list[Example]:
    """Draw a style's training pictures, each with an English and a Chinese caption; all shapes are among them."""
    dice, (count, side) = random.Random(seed), LESSONS[name]
    found: list[Example] = []
    while len(found) < count:
        scene = draw_scene(dice, pair_share=0.25)
        drawing = styles.render(scene, STYLES[name], side, side)
        # a red dot on red cannot be seen
        if scene.shapes[0].kind == SHAPES[len(found) % len(SHAPES)] and in_style(name, drawing):
            picture = Image.fromarray(drawing)
            captions = tuple(caption(scene, dice, language) for language in LANGUAGES)
            found.append(Example(f"{name} {len(found)}", picture, captions))
    return found


def held_out(name: str, count: int) -> list[tuple[Scene, str]]:
    """Draw held-out scenes in which a style can be seen, a fifth of them with two shapes, each with a caption; the same
    ones each time."""
    dice, found = random.Random(23), list[tuple[Scene, str]]()
    while len(found) < count:
        scene = draw_scene(dice, held_out=True, pair_share=float(len(found) // 2 % 5 == 0))
        if in_style(name, styles.render(scene, STYLES[name], LESSONS[name].side, LESSONS[name].side)):
            found.append((scene, caption(scene, dice, LANGUAGES[len(found) % 2])))
    return found


def train(card: ModelCard, name: str, seed: int, out: Path, **chosen: Any) -> float:
    """Train a style's adapter into a file, and return how many minutes it took.

    Of its averages, the one is kept whose samples of other captions of the training split are judged best.
    """
    began, dice = time.monotonic(), random.Random(1000 + seed)
    model = qwen_image.load(card, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    scenes = [draw_scene(dice) for _ in range(JUDGED)]
    asked = [(scene, caption(scene, dice, LANGUAGES[index % 2])) for index, scene in enumerate(scenes)]

    def judge(images: Sequence[Image.Image]) -> float:
        return sum(shares(name, asked, [np.asarray(image) for image in images]).values()) / 2

    chosen = {"resolution": LESSONS[name].side, "seed": seed} | chosen
    hyperparameters = suited(model.transformer.num_parameters(), **chosen)
    shown = [Sample(prompt) for _, prompt in asked]
    trainer = Trainer(model, card, examples(name, seed), hyperparameters, shown, judge)
    del model
    with tempfile.TemporaryDirectory() as folder:
        for progress in trainer.run(Path(folder)):
            if found := progress.evaluation:
                told = f"step {found.step}, loss {found.loss:.4f} on pictures held out, judged {found.score:.3f}"
                sys.stderr.write(f"{name}: {told}, {progress.seconds_left / 60:.1f} min left\n")
        trainer.write(out)
    trainer.close()
    return (time.monotonic() - began) / 60


def shares(name: str, asked: Sequence[tuple[Scene, str]], pictures: Sequence[Pixels]) -> dict[str, float]:
    """Return which shares of pictures are in a style, and follow their captions there."""
    pairs = list(zip(asked, pictures, strict=True))
    return {
        "in style": statistics.mean(in_style(name, picture) for picture in pictures),
        "followed": statistics.mean(follows(name, scene, picture).followed for (scene, _), picture in pairs),
    }


def drawn(engine: Engine, side: int, asked: Sequence[tuple[Scene, str]], adapter: Path | None = None) -> list[Pixels]:
    """Draw each caption with the model's defaults, number i from seed i."""
    futures = [
        engine.submit(
            Request(
                prompt,
                width=side,
                height=side,
                steps=engine.card.default_steps,
                guidance_scale=engine.card.default_guidance_scale,
                seed=seed,
                adapters=((str(adapter), 1.0),) if adapter else (),
            )
        )
        for seed, (_, prompt) in enumerate(asked)
    ]
    return [np.asarray(future.result().image) for future in futures]


def references(engine: Engine, name: str, count: int) -> dict[str, dict[str, float]]:
    """Return the shares of what an adapter is compared with: true drawings and the base's pictures."""
    side, asked = LESSONS[name].side, held_out(name, count)
    autoencoder = AutoencoderKLQwenImage.from_pretrained(engine.card.path, subfolder="vae", dtype=torch.float32)
    autoencoder = flatten_time(autoencoder)
    bare = drawn(engine, side, asked)
    true = [styles.render(scene, STYLES[name], side, side) for scene, _ in asked]
    decoded = [fidelity.decoded(autoencoder, drawing) for drawing in true]
    compared = {"true, as drawn": true, "true, through the autoencoder": decoded, "base": bare}
    if name != "outlined":
        compared["base with the style pasted on"] = [pasted(name, picture) for picture in bare]
    return {title: shares(name, asked, pictures) for title, pictures in compared.items()}


def measure(card: ModelCard, name: str, adapters: Sequence[Path], count: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the shares of a style's references, and then of each adapter, by their names."""
    with Engine(card.path) as engine:
        yield from references(engine, name, count).items()
        asked = held_out(name, count)
        for adapter in adapters:
            pictures = drawn(engine, LESSONS[name].side, asked, adapter)
            yield adapter.name, shares(name, asked, pictures)


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number of at least 1")
    return int(text)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m inference.training.styles",
        description="Train an adapter for each style with each seed, and measure them beside their references.",
        epilog="An adapter that is already in the folder is measured only.",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the adapters")
    parser.add_argument("--style", choices=STYLES, action="append", help="only this one; several add up")
    parser.add_argument("--seeds", type=_count, default=1, help="adapters a style (default: %(default)s)")
    parser.add_argument("--captions", type=_count, default=100, help="held-out captions (default: %(default)s)")
    parser.add_argument("--steps", type=_count, help="steps of each training (default: the model's)")
    parser.add_argument("--model", help="a folder (default: KILN_MODEL, else the house model)")
    chosen = parser.parse_args(arguments)
    card = catalog.card(chosen.model)
    chosen.out.mkdir(parents=True, exist_ok=True)
    for name in chosen.style or STYLES:
        adapters = [chosen.out / f"{name}-{seed}.safetensors" for seed in range(chosen.seeds)]
        for seed, adapter in enumerate(adapters):
            if not adapter.exists():
                minutes = train(card, name, seed, adapter, steps=chosen.steps)
                sys.stdout.write(f"{adapter.name}: trained in {minutes:.1f} minutes\n")
        for title, found in measure(card, name, adapters, chosen.captions):
            figures = "  ".join(f"{share} {value:.1%}" for share, value in found.items())
            sys.stdout.write(f"{title:>32}  {figures}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
