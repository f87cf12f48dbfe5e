"""What runs a plan's graphs: ONNX Runtime on a processor, TensorRT on a GPU."""

from collections.abc import Mapping
from typing import Protocol

import torch

from inference.plans.profiles import Profile


class Executor(Protocol):
    """A plan in memory, ready to run."""

    name: str
    dtype: torch.dtype
    """The type of streams, embeddings and factors."""
    device: torch.device
    profiles: tuple[Profile, ...]

    def run(self, part: str, inputs: Mapping[str, torch.Tensor], profile: Profile) -> dict[str, torch.Tensor]:
        """Run one graph with contiguous inputs on the device; return its outputs by name."""
        ...

    def synchronize(self) -> None:
        """Wait until the device has done all work in the caller's stream."""
        ...
