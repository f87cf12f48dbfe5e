"""Splits a transformer over several processes, each with a device of its own (tensor parallelism).

The split is that of Megatron-LM (Shoeybi et al. 2019): each process has some of the heads of attention and of the
hidden features of the networks behind it, and what they give is summed over the processes, twice a block and stream.
The modulation of each block, a third of the weights, is computed in parts and put together. The rest each has whole.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import torch
from torch import distributed, nn
from torch.nn import functional

from inference.errors import ModelUnavailable

OUTPUTS, SUM, GATHER = "outputs", "sum", "gather"
# of the names of a block's linear layers
_KINDS = {
    OUTPUTS: re.compile(r"attn\.(to_[qkv]|add_[qkv]_proj)|(img|txt)_mlp\.net\.0\.proj"),
    SUM: re.compile(r"attn\.to_(out\.0|add_out)|(img|txt)_mlp\.net\.2"),
    GATHER: re.compile(r"(img|txt)_mod\.1"),
}


@dataclass(frozen=True)
class Share:
    """Which part of a layer a process has: `index` of `count`.

    `outputs`: a part of the outputs, which the next layer takes as its inputs. `sum`: a part of the inputs; the outputs
    are summed over all processes. `gather`: a part of the outputs, which all processes then put together.
    """

    kind: str
    index: int
    count: int
    inputs: int
    """Features of the whole layer."""
    outputs: int

    @property
    def taken(self) -> slice:
        """Of its inputs."""
        return self._part(self.inputs) if self.kind == SUM else slice(None)

    @property
    def given(self) -> slice:
        """Of its outputs."""
        return slice(None) if self.kind == SUM else self._part(self.outputs)

    def _part(self, features: int) -> slice:
        each = features // self.count
        return slice(self.index * each, (self.index + 1) * each)

    def cut(self, layer: nn.Linear) -> None:
        """Keep of a whole layer's weights what belongs to this share."""
        weight = layer.weight.detach()[self.given, self.taken].clone()
        layer.weight = nn.Parameter(weight, requires_grad=False)
        if layer.bias is not None and self.kind != SUM:
            layer.bias = nn.Parameter(layer.bias.detach()[self.given].clone(), requires_grad=False)

    def product(self, x: torch.Tensor, layer: nn.Linear) -> torch.Tensor:
        """Return what this process computes of the layer's outputs."""
        return functional.linear(x, layer.weight, None if self.kind == SUM else layer.bias)

    def complete(self, y: torch.Tensor, layer: nn.Linear) -> torch.Tensor:
        """Return what the next layer takes, with the other processes' parts."""
        if self.kind == SUM:
            distributed.all_reduce(y)
            return y if layer.bias is None else y.add_(layer.bias)
        if self.kind == GATHER:
            parts = [torch.empty_like(y) for _ in range(self.count)]
            distributed.all_gather(parts, y.contiguous())
            return torch.cat(parts, dim=-1)
        return y


def shrink(transformer: Any, index: int, count: int) -> None:
    """Keep of a Qwen-Image transformer what process `index` of `count` computes, in place.

    Raises ModelUnavailable if its heads cannot be divided so.
    """
    if count == 1:
        return
    for block in transformer.transformer_blocks:
        if block.attn.heads % count:
            raise ModelUnavailable(f"the model's {block.attn.heads} heads cannot be split over {count} cards")
        block.attn.heads //= count
        for name, layer in block.named_modules():
            if isinstance(layer, nn.Linear):
                kind = next(kind for kind, names in _KINDS.items() if names.fullmatch(name))
                share = Share(kind, index, count, layer.in_features, layer.out_features)
                share.cut(layer)
                layer.__dict__["share"] = share
