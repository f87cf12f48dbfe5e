"""Samples of a transformer in training: sheets of held-out captions and edits with the judge's verdicts."""

import logging
import random
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from diffusers import QwenImageEditPlusPipeline, QwenImagePipeline, QwenImageTransformer2DModel
from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit_plus
from PIL import Image, ImageDraw

from inference.house_model import architecture
from inference.house_model.captions import LANGUAGES, caption
from inference.house_model.edits import draw_edit, instruction
from inference.house_model.judge import judge
from inference.house_model.pool import Frozen
from inference.house_model.world import Pixels, draw_scene, render

log = logging.getLogger(__name__)

# (width, height) of captions' pictures, and how many; edits are drawn in the first size
CAPTIONS = {(128, 128): 24, (256, 256): 12}
EDITS = 12
COLUMNS = 6
STEPS = 12
GUIDANCE = 3.0


def sheet(pictures: list[Pixels], followed: list[bool]) -> Image.Image:
    """Draw pictures of one size in rows of COLUMNS, with a red corner on those that do not follow their caption."""
    height, width = pictures[0].shape[:2]
    whole = Image.new("RGB", (COLUMNS * (width + 4), -(-len(pictures) // COLUMNS) * (height + 4)), "white")
    pen = ImageDraw.Draw(whole)
    for index, (picture, right) in enumerate(zip(pictures, followed, strict=True)):
        x, y = index % COLUMNS * (width + 4), index // COLUMNS * (height + 4)
        whole.paste(Image.fromarray(picture), (x, y))
        if not right:
            pen.rectangle((x, y, x + 9, y + 9), fill="red", outline="white")
    return whole


def _levels(drawn: np.ndarray) -> Pixels:
    levels: Pixels = np.round(drawn * 255).astype(np.uint8)
    return levels


def _drawn(
    frozen: Frozen, transformer: QwenImageTransformer2DModel, prompts: list[str], size: tuple[int, int]
) -> list[Pixels]:
    pipeline = QwenImagePipeline(
        architecture.sampler(), frozen.autoencoder, frozen.reader.model, frozen.reader.words, transformer
    )
    pipeline.set_progress_bar_config(disable=True)
    drawn = pipeline(
        prompts,
        negative_prompt=[" "] * len(prompts),
        true_cfg_scale=GUIDANCE,
        width=size[0],
        height=size[1],
        num_inference_steps=STEPS,
        generator=torch.Generator().manual_seed(0),
        output_type="np",
    ).images
    return list(_levels(drawn))


def _edited(frozen: Frozen, transformer: QwenImageTransformer2DModel, asked: list[tuple[Pixels, str]]) -> list[Pixels]:
    words = frozen.reader.words
    pipeline = QwenImageEditPlusPipeline(
        architecture.sampler(),
        frozen.autoencoder,
        frozen.reader.model,
        words,
        architecture.processor(words),
        transformer,
    )
    pipeline.set_progress_bar_config(disable=True)
    pictures = []
    for before, text in asked:
        height, width = before.shape[:2]
        # the pipeline enlarges its input to a megapixel, a size that the house model never saw
        with mock.patch.object(pipeline_qwenimage_edit_plus, "VAE_IMAGE_SIZE", width * height):
            drawn = pipeline(
                [Image.fromarray(before)],
                text,
                negative_prompt=" ",
                true_cfg_scale=GUIDANCE,
                width=width,
                height=height,
                num_inference_steps=STEPS,
                generator=torch.Generator().manual_seed(0),
                output_type="np",
            ).images
        pictures.append(_levels(drawn)[0])
    return pictures


def look(out: Path, frozen: Frozen, transformer: QwenImageTransformer2DModel, step: int) -> None:
    """Draw held-out captions and edits, write `out`/sheets/STEP-*.png, and log the shares that are right."""
    dice, transformer = random.Random(7), transformer.eval()
    (out / "sheets").mkdir(exist_ok=True)
    for size, count in CAPTIONS.items():
        scenes = [draw_scene(dice, held_out=True, pair_share=0.2) for _ in range(count)]
        prompts = [caption(scene, dice, LANGUAGES[index % 2]) for index, scene in enumerate(scenes)]
        pictures = _drawn(frozen, transformer, prompts, size)
        verdicts = [judge(scene, picture) for scene, picture in zip(scenes, pictures, strict=True)]
        sheet(pictures, [verdict.followed for verdict in verdicts]).save(out / "sheets" / f"{step:06d}-{size[0]}.png")
        parts = ("background", "colour", "shape", "position", "followed")
        shares = ", ".join(f"{part} {np.mean([getattr(v, part) for v in verdicts]):.0%}" for part in parts)
        log.info("step %d, %d held-out captions at %dx%d: %s", step, count, *size, shares)
    edits = [draw_edit(dice, held_out=True) for _ in range(EDITS)]
    befores = [render(edit.before, *next(iter(CAPTIONS))) for edit in edits]
    texts = [instruction(edit, dice, LANGUAGES[index % 2]) for index, edit in enumerate(edits)]
    pictures = _edited(frozen, transformer, list(zip(befores, texts, strict=True)))
    right = [judge(edit.after, picture).followed for edit, picture in zip(edits, pictures, strict=True)]
    both = [np.concatenate(pair, axis=1) for pair in zip(befores, pictures, strict=True)]
    sheet(both, right).save(out / "sheets" / f"{step:06d}-edits.png")
    log.info("step %d, %d held-out edits: %.0f %% right", step, EDITS, 100 * np.mean(right))
