"""The backend that runs diffusers' transformer eagerly in PyTorch, on a CPU or a GPU."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch
from diffusers import QwenImageTransformer2DModel
from torch import nn
from torch.nn import functional

from inference.adapters.layers import Layers
from inference.adapters.weights import Row
from inference.models import transformer as rows
from inference.state import Grid
from inference.step_cache import StepCache

# text is padded to one of these lengths, so that the linear layers see few shapes
TEXT_BUCKETS = (8, 12, 16, 20, 24, 28, 32, 40, 48, 56, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048)


# restricts a forward to some of its rows, each with its own adapters
Only = Callable[[Sequence[int]], AbstractContextManager[None]]


class TorchBackend:
    """The torch `Backend`. Replaces the transformer's attention, RoPE and linear layers in place, but no weight."""

    name = "torch"

    def __init__(self, transformer: QwenImageTransformer2DModel) -> None:
        self.transformer = rows.make_rows_independent(transformer)
        self.layers = Layers(transformer)
        self._blocks: rows.Blocks = transformer.transformer_blocks
        self._parameter = next(transformer.parameters())

    def velocity(
        self,
        latents: torch.Tensor,
        sigmas: torch.Tensor,
        texts: Sequence[torch.Tensor],
        grids: Sequence[Grid],
        adapters: Sequence[Row],
        cache: StepCache | None = None,
    ) -> torch.Tensor:
        height, width = grids[0]
        through = partial(_reuse, cache, self.layers.only, height * width) if cache else None
        with self.layers.given(adapters), self._blocks.running(through):
            return predict(self.transformer, latents, sigmas, pad(texts), list(map(len, texts)), grids)

    def synchronize(self) -> None:
        if self._parameter.is_cuda:
            torch.cuda.current_stream(self._parameter.device).synchronize()

    def end(self) -> None:
        """There is no other process."""


def predict(
    transformer: QwenImageTransformer2DModel,
    latents: torch.Tensor,
    sigmas: torch.Tensor,
    texts: torch.Tensor,
    lengths: Sequence[int],
    grids: Sequence[Grid],
) -> torch.Tensor:
    """Predict velocities [rows, tokens of the first grid, channels], 32 bits, by a transformer with independent rows.

    `texts` [rows, text tokens, width] are padded, `lengths` is how many tokens of each are not padding; the other
    arguments are those of `Backend.velocity`.
    """
    dtype = next(transformer.parameters()).dtype
    height, width = grids[0]
    predicted: torch.Tensor = transformer(
        hidden_states=latents.to(dtype),
        # rounded as in diffusers' pipelines
        timestep=(1000 * sigmas).to(dtype) / 1000,
        encoder_hidden_states=texts,
        img_shapes=[[(1, *grid) for grid in grids]] * len(texts),
        attention_kwargs={"text_lengths": lengths},
        return_dict=False,
    )[0]
    return predicted[:, : height * width].float()


def pad(texts: Sequence[torch.Tensor]) -> torch.Tensor:
    """Pad texts to their bucket and stack them: [rows, bucket, width]."""
    longest = max(len(text) for text in texts)
    bucket = next(size for size in TEXT_BUCKETS if size >= longest)
    return torch.stack([functional.pad(text, (0, 0, 0, bucket - len(text))) for text in texts])


def _reuse(
    cache: StepCache,
    only: Only,
    tokens: int,
    blocks: Sequence[nn.Module],
    *,
    hidden_states: torch.Tensor,
    encoder_hidden_states: torch.Tensor,
    **shared: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Run all blocks as one, without those that rows may skip; return the streams of text and image, as a block does.

    The text's is that after the first block: nothing needs the last one's.
    """
    first, *others = blocks
    text, image = first(hidden_states=hidden_states, encoder_hidden_states=encoder_hidden_states, **shared)
    return text, cache.run(hidden_states, image, tokens, lambda rows: _run(others, only, rows, text, image, shared))


def _run(
    blocks: Sequence[nn.Module],
    only: Only,
    rows: list[int],
    text: torch.Tensor,
    image: torch.Tensor,
    shared: dict[str, Any],
) -> torch.Tensor:
    """Run some rows through these blocks, and return their image stream."""
    count = len(image)
    some = shared | {
        # models that see their condition at another time have the times of all rows twice
        "temb": shared["temb"].unflatten(0, (-1, count))[:, rows].flatten(0, 1),
        "joint_attention_kwargs": {
            name: [values[row] for row in rows] for name, values in shared["joint_attention_kwargs"].items()
        },
        "modulate_index": None if shared["modulate_index"] is None else shared["modulate_index"][rows],
    }
    text, image = text[rows], image[rows]
    with only(rows):
        for block in blocks:
            text, image = block(hidden_states=image, encoder_hidden_states=text, **some)
    return image
