"""The backend that runs diffusers' transformer eagerly in PyTorch, on a CPU or a GPU."""

from collections.abc import Sequence
from functools import partial

import torch
from diffusers import QwenImageTransformer2DModel
from torch.nn import functional

from inference.adapters.layers import Layers
from inference.adapters.weights import Row
from inference.models import transformer as rows
from inference.state import Grid
from inference.step_cache import StepCache

# text is padded to one of these lengths, so that the linear layers see few shapes
TEXT_BUCKETS = (8, 12, 16, 20, 24, 28, 32, 40, 48, 56, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048)


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
        through = partial(cache.run, only=self.layers.only, tokens=height * width) if cache else None
        with self.layers.given(adapters), self._blocks.running(through):
            return predict(self.transformer, latents, sigmas, _pad(texts), list(map(len, texts)), grids)

    def synchronize(self) -> None:
        if self._parameter.is_cuda:
            torch.cuda.current_stream(self._parameter.device).synchronize()


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


def _pad(texts: Sequence[torch.Tensor]) -> torch.Tensor:
    """Pad texts to their bucket and stack them: [rows, bucket, width]."""
    longest = max(len(text) for text in texts)
    bucket = next(size for size in TEXT_BUCKETS if size >= longest)
    return torch.stack([functional.pad(text, (0, 0, 0, bucket - len(text))) for text in texts])
