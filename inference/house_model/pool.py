"""The transformer's training data: latents of drawn scenes, computed once and stored on disk.

There is one pool for each picture size, without held-out combinations. Captions and instructions are phrased anew for
every batch. After some epochs the transformer knows a pool's edits by heart; pools of another `drawing` have others.
"""

import logging
import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKLQwenImage
from safetensors.torch import load_file, save_file
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer

from inference.house_model import architecture, text, vae
from inference.house_model.architecture import pack
from inference.house_model.edits import Edit, backwards, draw_edits
from inference.house_model.open_captions import draw_open_scene
from inference.house_model.world import Scene, draw_scene, render
from inference.models.autoencoder import flatten_time

log = logging.getLogger(__name__)

CHUNK_PIXELS = 16 * 128 * 128
# which of two shapes is meant is the hardest part of an edit
PAIR_SHARE = 0.65
EDITS_A_SCENE = 3
OPEN_SHARE = 0.4


@dataclass(frozen=True)
class Frozen:
    """The parts of the model that are already trained when the transformer is."""

    reader: text.Reader
    autoencoder: AutoencoderKLQwenImage


@dataclass(frozen=True)
class Pool:
    """Scenes in pictures of one size: row i of `tokens` shows scene i; edits lead from one row to another."""

    width: int
    height: int
    scenes: list[Scene]
    edits: list[tuple[Edit, int, int]]
    tokens: torch.Tensor  # (scenes, image tokens, 32), normalised, bf16


def load_frozen(folder: Path) -> Frozen:
    """Load the finished stages' checkpoints, with the autoencoder's refined decoder if there is one."""
    refined = folder / "decoder"
    autoencoder = AutoencoderKLQwenImage.from_pretrained(refined if refined.exists() else folder / "vae")
    encoder = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder / "text_encoder", dtype=torch.float32)
    words = Qwen2Tokenizer.from_pretrained(folder / "tokenizer")
    return Frozen(
        text.Reader(encoder.eval().requires_grad_(False), architecture.processor(words)),
        flatten_time(autoencoder.eval()),
    )


def normalise(autoencoder: AutoencoderKLQwenImage, latents: torch.Tensor) -> torch.Tensor:
    """Normalise raw latents (batch, channels, height, width) to mean 0 and deviation 1 per channel."""
    mean = torch.tensor(autoencoder.config.latents_mean).view(1, -1, 1, 1)
    return (latents - mean) / torch.tensor(autoencoder.config.latents_std).view(1, -1, 1, 1)


def _drawn(count: int, seed: int) -> tuple[list[Scene], list[tuple[Edit, int, int]]]:
    """Draw `count` scenes, half of them edited ones, and the edits between them, there and back."""
    dice = random.Random(seed)
    scenes: list[Scene] = []
    edits: list[tuple[Edit, int, int]] = []
    while len(scenes) < count // 2:
        drawn = draw_edits(dice, EDITS_A_SCENE, pair_share=PAIR_SHARE)
        before = len(scenes)
        scenes.append(drawn[0].before)
        for edit in drawn:
            edits.append((edit, before, len(scenes)))
            if back := backwards(edit):
                edits.append((back, len(scenes), before))
            scenes.append(edit.after)
    while len(scenes) < count:
        scenes.append(draw_open_scene(dice) if dice.random() < OPEN_SHARE else draw_scene(dice, pair_share=0.35))
    return scenes, edits


@torch.no_grad()
def _encoded(autoencoder: AutoencoderKLQwenImage, scenes: list[Scene], width: int, height: int) -> torch.Tensor:
    encode = torch.compile(autoencoder.encoder, dynamic=True)
    rows = max(CHUNK_PIXELS // (width * height), 1)
    tokens = []
    for start in range(0, len(scenes), rows):
        pictures = np.stack([render(scene, width, height) for scene in scenes[start : start + rows]])
        latents = normalise(autoencoder, vae.encode(autoencoder, vae.to_tensor(pictures), encode))
        tokens.append(pack(latents).bfloat16())
    return torch.cat(tokens)


def load_or_build(folder: Path, frozen: Frozen, width: int, height: int, count: int, drawing: int) -> Pool:
    """Load the pool of one size from `folder`; the first time, build it and write it there, whole or not at all."""
    scenes, edits = _drawn(count, seed=1_000_000 * drawing + 1000 * width + height)
    path = folder / f"pool-{drawing}-{width}x{height}.safetensors"
    if not path.exists():
        fresh = path.with_suffix(".new")
        save_file({"tokens": _encoded(frozen.autoencoder, scenes, width, height)}, fresh)
        fresh.rename(path)
        log.info("pool of %d scenes and %d edits, %d by %d", count, len(edits), width, height)
    return Pool(width, height, scenes, edits, load_file(path)["tokens"])
