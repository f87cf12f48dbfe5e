"""The transformer's training material: latents and text features, computed once and kept on disk.

One pool a picture size. Held-out combinations never get in here.
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

from inference.house_model import text, vae
from inference.house_model.architecture import pack
from inference.house_model.captions import LANGUAGES, caption
from inference.house_model.tokenizer import in_template
from inference.house_model.world import Scene, draw_scene, render
from inference.models.autoencoder import flatten_time

log = logging.getLogger(__name__)

TEXT_ROOM = 24
CHUNK = 32


@dataclass(frozen=True)
class Frozen:
    """The parts of the model that are finished when the transformer is trained."""

    words: Qwen2Tokenizer
    text_encoder: Qwen2_5_VLForConditionalGeneration
    autoencoder: AutoencoderKLQwenImage


@dataclass(frozen=True)
class Pool:
    """Pictures of one size. Rows i of `tokens` go with rows i of `texts` and `lengths`, one column a language."""

    width: int
    height: int
    tokens: torch.Tensor  # (pictures, image tokens, 32), normalised, bf16
    texts: torch.Tensor  # (pictures, languages, TEXT_ROOM, 128), bf16
    lengths: torch.Tensor  # (pictures, languages)


def load_frozen(folder: Path) -> Frozen:
    """Read the finished stages' checkpoints."""
    autoencoder = AutoencoderKLQwenImage.from_pretrained(folder / "decoder")
    encoder = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder / "text_encoder", dtype=torch.float32)
    return Frozen(Qwen2Tokenizer.from_pretrained(folder / "tokenizer"), encoder.eval(), autoencoder.eval())


def _prompt(scene: Scene, dice: random.Random, language: str, words: Qwen2Tokenizer) -> str:
    empty = len(words(in_template("")).input_ids)
    while True:
        prompt = caption(scene, dice, language)
        if len(words(in_template(prompt)).input_ids) - empty + text.CLOSING_TOKENS <= TEXT_ROOM:
            return prompt


def normalise(autoencoder: AutoencoderKLQwenImage, latents: torch.Tensor) -> torch.Tensor:
    """Raw (batch, channels, height, width) latents → ones of mean 0 and deviation 1 a channel."""
    mean = torch.tensor(autoencoder.config.latents_mean).view(1, -1, 1, 1)
    return (latents - mean) / torch.tensor(autoencoder.config.latents_std).view(1, -1, 1, 1)


def build(frozen: Frozen, width: int, height: int, count: int, seed: int) -> Pool:
    """Draw, encode and describe `count` training scenes, each once a language."""
    dice = random.Random(seed)
    flatten_time(frozen.autoencoder)
    tokens, texts, lengths = [], [], []
    for _ in range(count // CHUNK):
        scenes = [draw_scene(dice) for _ in range(CHUNK)]
        pictures = np.stack([render(scene, width, height) for scene in scenes])
        latents = normalise(frozen.autoencoder, vae.encode(frozen.autoencoder, pictures))
        tokens.append(pack(latents).bfloat16())
        prompts = [_prompt(scene, dice, language, frozen.words) for scene in scenes for language in LANGUAGES]
        states, sizes = text.features(frozen.text_encoder, frozen.words, prompts, TEXT_ROOM)
        texts.append(states.bfloat16().view(CHUNK, len(LANGUAGES), TEXT_ROOM, -1))
        lengths.append(sizes.view(CHUNK, len(LANGUAGES)))
    return Pool(width, height, torch.cat(tokens), torch.cat(texts), torch.cat(lengths))


def load_or_build(folder: Path, frozen: Frozen, width: int, height: int, count: int) -> Pool:
    """The pool of one size from `folder`; built and written there the first time."""
    path = folder / f"pool-{width}x{height}.safetensors"
    if not path.exists():
        pool = build(frozen, width, height, count, seed=1000 * width + height)
        save_file({"tokens": pool.tokens, "texts": pool.texts, "lengths": pool.lengths}, path)
        log.info("pool of %d pictures, %d by %d", count, width, height)
    return Pool(width, height, **load_file(path))
