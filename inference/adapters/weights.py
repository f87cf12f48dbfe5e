"""An adapter's weights in memory: two factors of rank r for each linear layer that it changes.

A layer y = Wx becomes y = Wx + s·B(Ax) with A [r, in features] and B [out features, r] (Hu et al. 2021, "LoRA").
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import NamedTuple

import torch


class Shape(NamedTuple):
    """The shape of one layer's factors; `scale` is alpha / rank."""

    rank: int
    inputs: int
    outputs: int
    scale: float

    @property
    def size(self) -> int:
        """The number of elements of both factors."""
        return self.rank * (self.inputs + self.outputs)


class Factors(NamedTuple):
    """One layer's `down` [rank, in features], which is A, and `up` [rank, out features], which is B transposed."""

    down: torch.Tensor
    up: torch.Tensor
    scale: float


@dataclass(frozen=True, eq=False)
class Adapter:
    """An adapter on one device: a single block of memory that holds the factors of all layers, one after another.

    `digest` identifies it by all that it does to a model. `warnings` say what of its file is ignored.
    """

    memory: torch.Tensor
    shapes: Mapping[str, Shape]
    digest: str = ""
    warnings: tuple[str, ...] = ()
    factors: Mapping[str, Factors] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "factors", self._carve())

    @property
    def nbytes(self) -> int:
        return self.memory.nbytes

    @cached_property
    def rank(self) -> int:
        """The highest rank of any layer."""
        return max(shape.rank for shape in self.shapes.values())

    def to(self, device: torch.device) -> "Adapter":
        """Copy the adapter to another device; on a GPU, beside the work that runs there."""
        if device.type != "cuda":
            return replace(self, memory=self.memory.to(device))
        beside = _beside(device)
        with torch.cuda.stream(beside):
            memory = self.memory.pin_memory().to(device, non_blocking=True)
        beside.synchronize()
        return replace(self, memory=memory)

    def _carve(self) -> dict[str, Factors]:
        parts = self.memory.split([shape.size for shape in self.shapes.values()])
        factors = {}
        for (name, shape), part in zip(self.shapes.items(), parts, strict=True):
            down, up = part.split([shape.rank * shape.inputs, shape.rank * shape.outputs])
            factors[name] = Factors(down.view(shape.rank, -1), up.view(shape.rank, -1), shape.scale)
        return factors


@lru_cache
def _beside(device: torch.device) -> torch.cuda.Stream:
    # a single stream: torch reuses memory only in the stream that allocated it
    return torch.cuda.Stream(device)


# the adapters of one row of a forward, each with the request's scale; they add up
Row = tuple[tuple[Adapter, float], ...]
