"""Examples as the transformer sees them: latents and embeddings, computed once for the whole training."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import torch

from inference import pictures
from inference.card import ModelCard
from inference.models.qwen_image import QwenImage
from inference.request import TILE, Operation
from inference.state import Grid
from inference.training import buckets
from inference.training.examples import Example


class Encoded(NamedTuple):
    """One example; `grids` are its own and those of its condition, `texts` its captions and `empty` none.

    `latents` and `condition` are [tokens, channels] and normalised, each text [text tokens, width].
    """

    latents: torch.Tensor
    condition: torch.Tensor
    grids: tuple[Grid, ...]
    texts: tuple[torch.Tensor, ...]
    empty: torch.Tensor


@torch.no_grad()
def encode(model: QwenImage, card: ModelCard, examples: Sequence[Example], resolution: int) -> Iterator[Encoded]:
    """Encode examples one by one; the tensors lie in the CPU's memory."""
    known: dict[str, torch.Tensor] = {}
    for example in examples:
        ratio = buckets.ratio(pictures.size(example.image))
        grid = buckets.grid(ratio, resolution)
        latents = model.read(buckets.crop(example.image, ratio), grid).mean.cpu()
        prompts = (*example.captions, "")
        if example.before is None:
            known |= {prompt: model.encode(prompt).cpu() for prompt in prompts if prompt not in known}
            *texts, empty = (known[prompt] for prompt in prompts)
            yield Encoded(latents, latents[:0], (grid,), tuple(texts), empty)
            continue
        area = grid[0] * grid[1] * TILE**2
        (seen,) = pictures.condition_sizes(Operation.EDIT, area, [pictures.size(example.before)], card)
        shown = (seen[1] // TILE, seen[0] // TILE)
        *texts, empty = (text.cpu() for text in model.encode_edit(prompts, [example.before]))
        yield Encoded(latents, model.read(example.before, shown).mean.cpu(), (grid, shown), tuple(texts), empty)


def digest(rows: Iterable[Encoded]) -> str:
    """Return a digest by which a checkpoint knows the examples that it was trained on."""
    found = hashlib.sha256()
    for row in rows:
        found.update(repr((row.grids, [len(text) for text in row.texts])).encode())
        for tensor in (row.latents, row.condition, *row.texts, row.empty):
            found.update(tensor.contiguous().view(torch.uint8).numpy().data)
    return found.hexdigest()
