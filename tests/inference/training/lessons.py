"""Small trainings of the house model: a few framed pictures or edits, 64 pixels a side, a few steps."""

import random
from pathlib import Path

import torch
from PIL import Image

from inference.house_model import styles
from inference.house_model.captions import LANGUAGES, caption
from inference.house_model.edits import draw_edit, instruction
from inference.house_model.styles import STYLES
from inference.house_model.world import draw_scene, render
from inference.models import catalog, qwen_image
from inference.models.qwen_image import QwenImage
from inference.training.examples import Example
from inference.training.hyperparameters import Hyperparameters
from inference.training.samples import Sample
from inference.training.trainer import Judge, Trainer

SIDE = 64
FRAME = STYLES["frame"]


def framed(count: int = 8) -> list[Example]:
    dice = random.Random(1)
    scenes = [draw_scene(dice) for _ in range(count)]
    return [
        Example(
            f"scene {number}",
            Image.fromarray(styles.render(scene, FRAME, SIDE, SIDE)),
            tuple(caption(scene, dice, language) for language in LANGUAGES),
        )
        for number, scene in enumerate(scenes)
    ]


def edits(count: int = 4) -> list[Example]:
    dice = random.Random(2)
    drawn = [draw_edit(dice) for _ in range(count)]
    return [
        Example(
            f"edit {number}",
            Image.fromarray(styles.render(edit.after, FRAME, SIDE, SIDE)),
            (instruction(edit, dice, "en"),),
            Image.fromarray(render(edit.before, SIDE, SIDE)),
        )
        for number, edit in enumerate(drawn)
    ]


def few(**changes) -> Hyperparameters:
    values = {"steps": 6, "batch": 4, "resolution": SIDE, "rank": 4, "alpha": 4.0, "every": 2, "warm_up": 2} | changes
    return Hyperparameters(**values)


def house() -> QwenImage:
    return qwen_image.load(catalog.card(), torch.device("cpu"))


def trainer(
    examples: list[Example] | None = None,
    shown: list[Sample] | None = None,
    judge: Judge | None = None,
    model: QwenImage | None = None,
    **changes,
) -> Trainer:
    return Trainer(model or house(), catalog.card(), examples or framed(), few(**changes), shown or [], judge)


def finish(one: Trainer, folder: Path) -> bytes:
    """Run a training to its end, and return the bytes of its adapter."""
    for _ in one.run(folder):
        pass
    one.write(folder / "adapter.safetensors")
    return (folder / "adapter.safetensors").read_bytes()
