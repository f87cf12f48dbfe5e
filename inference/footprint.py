"""How much memory a model takes, computed without its weights: its modules run on meta tensors, which have shapes and
no contents, and every allocation is counted while it lives.

Attention is counted as the kernels that keep no scores, and a convolution with its picture and its result in blocks of
16 channels beside, as oneDNN makes them; cuDNN's copies in its own order are as large. Libraries' fixed costs, half a
gigabyte for CUDA, are not in it.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from math import ceil
from typing import Any

import torch
from diffusers import AutoencoderKLQwenImage
from torch import nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from inference.backends.pytorch import predict
from inference.models import autoencoder, forms
from inference.state import Grid

CHANNEL_BLOCK = 16


def peak(work: Callable[[], object]) -> int:
    """Return the most bytes that are allocated at once while `work` runs on meta tensors, its result included."""
    allocations = _Allocations()
    with torch.no_grad(), allocations, _FusedAttention():
        result = work()
        del result
    return allocations.most


def weights(module: nn.Module) -> int:
    """Return the bytes of a module's weights and buffers."""
    return sum(tensor.nbytes for tensor in (*module.parameters(), *module.buffers()))


def step(transformer: nn.Module, rows: int, grids: Sequence[Grid], text: int) -> int:
    """Return the peak bytes of one forward beside the weights.

    The transformer is one of independent rows, on meta; texts have `text` tokens, a picture and its conditions `grids`.
    """
    config: Any = transformer.config
    tokens = sum(height * width for height, width in grids)
    with torch.device("meta"):
        latents = torch.empty(rows, tokens, config.in_channels)
        texts = torch.empty(rows, text, config.joint_attention_dim, dtype=next(transformer.parameters()).dtype)
        sigmas = torch.empty(rows)
    return peak(lambda: predict(transformer, latents, sigmas, texts, [text] * rows, grids))  # type: ignore[arg-type]


def decode(model: AutoencoderKLQwenImage, grid: Grid, *, in_pieces: bool = False) -> int:
    """Return the peak bytes of decoding one picture beside the weights, by an autoencoder of single frames on meta."""
    latents = torch.empty(grid[0] * grid[1], model.config.z_dim * 4, device="meta")
    return peak(lambda: autoencoder.decode(model, latents, grid, in_pieces=in_pieces))


class _Allocations(TorchDispatchMode):
    """Counts what operators allocate, and when it is given up."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.most = self._now = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self, function: Any, types: Any, arguments: Sequence[Any] = (), options: Mapping[str, Any] | None = None
    ) -> Any:
        # what is given and was not allocated here: weights and inputs
        self._known |= {storage._cdata for storage in _storages((arguments, options))}
        result = function(*arguments, **(options or {}))
        if function is torch.ops.aten.convolution.default:
            self.most = max(self.most, self._now + _in_blocks(arguments[0]) + _in_blocks(result))
        for storage in _storages(result):
            self._count(storage)
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        if storage._cdata in self._known:
            return
        self._known.add(storage._cdata)
        weakref.finalize(storage, self._forget, storage._cdata, storage.nbytes())
        self._now += storage.nbytes()
        self.most = max(self.most, self._now)

    def _forget(self, key: int, size: int) -> None:
        self._known.discard(key)
        self._now -= size


class _FusedAttention(TorchFunctionMode):
    """Attention as a kernel that keeps the sums of each query's scores beside its result, and no scores."""

    def __torch_function__(
        self, function: Any, types: Any, arguments: Sequence[Any] = (), options: Mapping[str, Any] | None = None
    ) -> Any:
        if function is functional.scaled_dot_product_attention:
            query = arguments[0]
            sums = query.new_empty(query.shape[:-1], dtype=torch.float32)
            result = torch.empty_like(query)
            del sums
            return result
        return function(*arguments, **(options or {}))


def _storages(tree: Any) -> list[torch.UntypedStorage]:
    """Return the storages of all tensors, also of those that one in another form consists of."""
    tensors = [each for each in tree_leaves(tree) if isinstance(each, torch.Tensor)]
    return [part.untyped_storage() for tensor in tensors for part in forms.parts(tensor)]


def _in_blocks(pixels: torch.Tensor) -> int:
    channels = pixels.shape[1]
    return pixels.nbytes // channels * ceil(channels / CHANNEL_BLOCK) * CHANNEL_BLOCK
