"""What a training transformer draws: a sheet of held-out captions with the judge's verdict on each picture."""

import logging
import random
from pathlib import Path

import numpy as np
import torch
from diffusers import QwenImagePipeline, QwenImageTransformer2DModel
from PIL import Image, ImageDraw

from inference.house_model import architecture
from inference.house_model.captions import LANGUAGES, caption
from inference.house_model.judge import Verdict, judge
from inference.house_model.pool import Frozen
from inference.house_model.world import Pixels, draw_scene

log = logging.getLogger(__name__)

PICTURES = 24
COLUMNS = 6
STEPS = 12
GUIDANCE = 3.0


def sheet(pictures: list[Pixels], followed: list[bool]) -> Image.Image:
    """The pictures of one size in rows of COLUMNS; those that do not follow their caption have a red corner."""
    height, width = pictures[0].shape[:2]
    whole = Image.new("RGB", (COLUMNS * (width + 4), -(-len(pictures) // COLUMNS) * (height + 4)), "white")
    pen = ImageDraw.Draw(whole)
    for index, (picture, right) in enumerate(zip(pictures, followed, strict=True)):
        x, y = index % COLUMNS * (width + 4), index // COLUMNS * (height + 4)
        whole.paste(Image.fromarray(picture), (x, y))
        if not right:
            pen.rectangle((x, y, x + 9, y + 9), fill="red", outline="white")
    return whole


def look(out: Path, frozen: Frozen, transformer: QwenImageTransformer2DModel, step: int) -> list[Verdict]:
    """Draw held-out captions, write `out`/sheets/STEP.png and log how many parts of them are right."""
    dice = random.Random(7)
    scenes = [draw_scene(dice, held_out=True, pair_share=0.2) for _ in range(PICTURES)]
    prompts = [caption(scene, dice, LANGUAGES[index % 2]) for index, scene in enumerate(scenes)]
    pipeline = QwenImagePipeline(
        architecture.sampler(), frozen.autoencoder, frozen.text_encoder, frozen.words, transformer.eval()
    )
    pipeline.set_progress_bar_config(disable=True)
    drawn = pipeline(
        prompts,
        negative_prompt=[" "] * PICTURES,
        true_cfg_scale=GUIDANCE,
        width=128,
        height=128,
        num_inference_steps=STEPS,
        generator=torch.Generator().manual_seed(0),
        output_type="np",
    ).images
    pictures = list(np.round(drawn * 255).astype(np.uint8))
    verdicts = [judge(scene, picture) for scene, picture in zip(scenes, pictures, strict=True)]
    (out / "sheets").mkdir(exist_ok=True)
    sheet(pictures, [verdict.followed for verdict in verdicts]).save(out / "sheets" / f"{step:06d}.png")
    parts = ("background", "colour", "shape", "position", "followed")
    shares = ", ".join(f"{part} {np.mean([getattr(v, part) for v in verdicts]):.0%}" for part in parts)
    log.info("step %d, %d held-out captions: %s", step, PICTURES, shares)
    return verdicts
