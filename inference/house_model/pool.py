"""The transformer's training data: latents and text features, computed once and stored on disk.

There is one pool for each picture size, without held-out combinations. After about six epochs on the same pools, the
transformer only gets better at their own edits; pools with another `drawing` have other scenes and instructions.
"""

import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKLQwenImage
from safetensors.torch import load_file, save_file
from tqdm import tqdm
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer

from inference.house_model import architecture, text, vae
from inference.house_model.architecture import pack
from inference.house_model.captions import LANGUAGES, caption, partial_caption
from inference.house_model.edits import draw_edit, instruction
from inference.house_model.world import Scene, render
from inference.models.autoencoder import flatten_time

log = logging.getLogger(__name__)

TEXT_ROOM = 28
CHUNK = 32
# which of two shapes is meant is the hardest part of an edit
PAIR_SHARE = 0.65


@dataclass(frozen=True)
class Frozen:
    """The parts of the model that are already trained when the transformer is."""

    reader: text.Reader
    autoencoder: AutoencoderKLQwenImage


@dataclass(frozen=True)
class Prompts:
    """The states of several prompts a row, and how many of each are real."""

    states: torch.Tensor  # (rows, phrasings, TEXT_ROOM, 128), bf16
    lengths: torch.Tensor  # (rows, phrasings)

    def pick(self, rows: torch.Tensor, phrasings: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return states (batch, TEXT_ROOM, 128) and booleans (batch, TEXT_ROOM), true where a state is real."""
        present = torch.arange(TEXT_ROOM)[None] < self.lengths[rows, phrasings][:, None]
        return self.states[rows, phrasings].float(), present


@dataclass(frozen=True)
class Pool:
    """Edits of pictures of one size: row i of `instructions` turns row i of `tokens` into row i + edits.

    Each row of `tokens` has captions: English, Chinese, partial; each edit has instructions: English, Chinese, empty.
    """

    width: int
    height: int
    tokens: torch.Tensor  # (2 · edits, image tokens, 32), normalised, bf16
    captions: Prompts
    instructions: Prompts

    @property
    def edits(self) -> int:
        return len(self.tokens) // 2


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


def _fitting(scene: Scene, dice: random.Random, language: str, words: Qwen2Tokenizer) -> str:
    """Return a caption short enough for the template's closing tokens."""
    while True:
        prompt = caption(scene, dice, language)
        if len(words.tokenize(prompt)) + text.CLOSING_TOKENS <= TEXT_ROOM:
            return prompt


def _captions(scene: Scene, dice: random.Random, words: Qwen2Tokenizer) -> list[str]:
    whole = [_fitting(scene, dice, language, words) for language in LANGUAGES]
    if not scene.shapes:
        return [*whole, whole[0]]
    return [*whole, partial_caption(scene, dice, dice.choice(LANGUAGES))[0]]


def normalise(autoencoder: AutoencoderKLQwenImage, latents: torch.Tensor) -> torch.Tensor:
    """Normalise raw latents (batch, channels, height, width) to mean 0 and deviation 1 per channel."""
    mean = torch.tensor(autoencoder.config.latents_mean).view(1, -1, 1, 1)
    return (latents - mean) / torch.tensor(autoencoder.config.latents_std).view(1, -1, 1, 1)


def _prompts(states: torch.Tensor, lengths: torch.Tensor, rows: int) -> Prompts:
    filled, lengths = text.padded(states, lengths, TEXT_ROOM)
    return Prompts(filled.bfloat16().unflatten(0, (rows, -1)), lengths.unflatten(0, (rows, -1)))


def _joined(parts: Sequence[Prompts]) -> Prompts:
    return Prompts(torch.cat([part.states for part in parts]), torch.cat([part.lengths for part in parts]))


@torch.no_grad()
def build(frozen: Frozen, width: int, height: int, count: int, seed: int) -> Pool:
    """Draw, encode and describe `count` edits of training scenes, in every language."""
    dice = random.Random(seed)
    encode = torch.compile(frozen.autoencoder.encoder, dynamic=False)
    tokens: tuple[list[torch.Tensor], list[torch.Tensor]] = ([], [])
    captions: tuple[list[Prompts], list[Prompts]] = ([], [])
    instructions = []
    for _ in tqdm(range(count // CHUNK), f"pool {width}x{height}", disable=None):
        edits = [draw_edit(dice, pair_share=PAIR_SHARE) for _ in range(CHUNK)]
        for side, scenes in enumerate(([edit.before for edit in edits], [edit.after for edit in edits])):
            pictures = np.stack([render(scene, width, height) for scene in scenes])
            latents = normalise(frozen.autoencoder, vae.encode(frozen.autoencoder, pictures, encode))
            tokens[side].append(pack(latents).bfloat16())
            texts = [one for scene in scenes for one in _captions(scene, dice, frozen.reader.words)]
            captions[side].append(_prompts(*frozen.reader.prompts(texts), CHUNK))
        befores = np.stack([render(edit.before, width, height) for edit in edits])
        asked = [one for edit in edits for one in (*(instruction(edit, dice, name) for name in LANGUAGES), " ")]
        read = frozen.reader.instructions(asked, np.repeat(befores, len(asked) // CHUNK, axis=0))
        instructions.append(_prompts(*read, CHUNK))
    return Pool(
        width,
        height,
        torch.cat([*tokens[0], *tokens[1]]),
        _joined([*captions[0], *captions[1]]),
        _joined(instructions),
    )


def load_or_build(folder: Path, frozen: Frozen, width: int, height: int, count: int, drawing: int) -> Pool:
    """Load the pool of one size from `folder`; the first time, build it and write it there."""
    path = folder / f"pool-{drawing}-{width}x{height}.safetensors"
    if not path.exists():
        pool = build(frozen, width, height, count, seed=1_000_000 * drawing + 1000 * width + height)
        kept = {"tokens": pool.tokens}
        for name, prompts in (("captions", pool.captions), ("instructions", pool.instructions)):
            kept |= {f"{name}.states": prompts.states, f"{name}.lengths": prompts.lengths}
        save_file(kept, path)
        log.info("pool of %d edits, %d by %d", count, width, height)
    kept = load_file(path)
    captions, instructions = (
        Prompts(kept[f"{name}.states"], kept[f"{name}.lengths"]) for name in ("captions", "instructions")
    )
    return Pool(width, height, kept["tokens"], captions, instructions)
