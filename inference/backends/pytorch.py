"""The backend that runs diffusers' transformer eagerly in PyTorch, on a CPU or a GPU."""

from collections.abc import Sequence
from functools import partial

import torch
from diffusers import QwenImageTransformer2DModel
from torch.nn import functional

from inference.adapters.layers import Layers
from inference.adapters.weights import Row
from inference.models import transformer as rows
from inference.request import Grid
from inference.step_cache import StepCache

# text is padded to one of these lengths, so that a row meets few shapes and the same mask path every time
TEXT_BUCKETS = (8, 12, 16, 20, 24, 28, 32, 40, 48, 56, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048)


class TorchBackend:
    """See `backends.base.Backend`. Replaces attention, RoPE and linear layers of the transformer, but no weight."""

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
        dtype = self._parameter.dtype
        text, mask = self._pad(texts, latents.shape[1])
        height, width = grids[0]
        through = partial(cache.run, only=self.layers.only, tokens=height * width) if cache else None
        with self.layers.given(adapters), self._blocks.running(through):
            predicted: torch.Tensor = self.transformer(
                hidden_states=latents.to(dtype),
                timestep=sigmas.to(dtype),
                encoder_hidden_states=text,
                img_shapes=[[(1, *grid) for grid in grids]] * len(texts),
                attention_kwargs={"attention_mask": mask},
                return_dict=False,
            )[0]
        return predicted[:, : height * width].float()

    def synchronize(self) -> None:
        if self._parameter.is_cuda:
            torch.cuda.current_stream(self._parameter.device).synchronize()

    def _pad(self, texts: Sequence[torch.Tensor], image_tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Texts [rows, bucket, width] and an additive mask [rows, 1, 1, bucket + image tokens]."""
        longest = max(len(text) for text in texts)
        bucket = next(size for size in TEXT_BUCKETS if size >= longest)
        padded = torch.stack([functional.pad(text, (0, 0, 0, bucket - len(text))) for text in texts])
        mask = padded.new_zeros(len(texts), 1, 1, bucket + image_tokens)
        for row, text in enumerate(texts):
            mask[row, ..., len(text) : bucket] = float("-inf")
        return padded, mask
