"""Pictures of fixed prompts from fixed noise, drawn by a transformer in training as the engine would draw them."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from PIL import Image

from inference import pictures, sampler
from inference.card import ModelCard
from inference.models.qwen_image import QwenImage
from inference.request import TILE, Operation
from inference.state import Grid
from inference.training import buckets

MOST = 16
COLUMNS = 4
GAP = 4
Velocity = Callable[[torch.Tensor, torch.Tensor, Sequence[torch.Tensor], Sequence[Grid]], torch.Tensor]


class Sample(NamedTuple):
    """A prompt, or an instruction for the picture `before`."""

    prompt: str
    before: Image.Image | None = None


class Prepared(NamedTuple):
    """A sample as the transformer sees it: embeddings of its prompt and of none, its grids and its condition."""

    text: torch.Tensor
    empty: torch.Tensor
    grids: tuple[Grid, ...]
    condition: torch.Tensor


@torch.no_grad()
def prepare(model: QwenImage, card: ModelCard, sample: Sample, resolution: int) -> Prepared:
    """Encode a sample; it is drawn at the size of the training, an edit in its picture's proportions."""
    if sample.before is None:
        grid = buckets.grid(1.0, resolution)
        return Prepared(model.encode(sample.prompt), model.encode(""), (grid,), torch.empty(0, model.channels))
    size = pictures.size(sample.before)
    grid = buckets.grid(buckets.ratio(size), resolution)
    (seen,) = pictures.condition_sizes(Operation.EDIT, grid[0] * grid[1] * TILE**2, [size], card)
    shown = (seen[1] // TILE, seen[0] // TILE)
    text, empty = model.encode_edit([sample.prompt, ""], [sample.before])
    return Prepared(text, empty, (grid, shown), model.read(sample.before, shown).mean)


@torch.no_grad()
def draw(model: QwenImage, card: ModelCard, velocity: Velocity, prepared: Sequence[Prepared]) -> list[Image.Image]:
    """Draw each sample with the model's default steps and guidance, number i from the noise of seed i."""
    return [_drawn(model, card, velocity, each, seed) for seed, each in enumerate(prepared)]


def _drawn(model: QwenImage, card: ModelCard, velocity: Velocity, prepared: Prepared, seed: int) -> Image.Image:
    rows, columns = prepared.grids[0]
    sigmas = sampler.sigmas(model.sampler_config, card.default_steps, rows * columns)
    latents = sampler.noise(model.channels, (rows, columns), torch.Generator().manual_seed(seed)).to(model.device)[None]
    condition = prepared.condition.to(latents)[None]
    texts = [prepared.text, prepared.empty]
    scales = torch.tensor([card.default_guidance_scale], device=model.device)
    for now, after in pairwise(sigmas):
        tokens = torch.cat([latents, condition], dim=1).repeat(2, 1, 1)
        times = torch.full((2,), now, device=model.device)
        towards, away = velocity(tokens, times, texts, prepared.grids).chunk(2)
        latents = sampler.step(latents, sampler.guide(towards, away, scales), torch.tensor([after - now]).to(latents))
    return model.decode(latents[0], (rows, columns))


def sheet(images: Sequence[Image.Image]) -> Image.Image:
    """Lay pictures out in rows of COLUMNS."""
    width, height = (max(getattr(image, side) for image in images) + GAP for side in ("width", "height"))
    columns = min(COLUMNS, len(images))
    whole = Image.new("RGB", (columns * width, -(-len(images) // columns) * height), "white")
    for index, image in enumerate(images):
        whole.paste(image, (index % columns * width, index // columns * height))
    return whole
