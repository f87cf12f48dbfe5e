"""What the runner needs of a backend: one forward of the transformer over a batch of rows, and nothing else."""

from collections.abc import Sequence
from typing import Protocol

import torch

from inference.adapters.layers import Layers
from inference.adapters.weights import Row
from inference.state import Grid
from inference.step_cache import StepCache


class Backend(Protocol):
    """A transformer, wherever it runs: in torch, ONNX Runtime or a TensorRT plan."""

    name: str
    layers: Layers
    """The layers that adapters may change, and where those are wanted."""

    def velocity(
        self,
        latents: torch.Tensor,
        sigmas: torch.Tensor,
        texts: Sequence[torch.Tensor],
        grids: Sequence[Grid],
        adapters: Sequence[Row],
        cache: StepCache | None = None,
    ) -> torch.Tensor:
        """Predict the flow's velocity of the first picture [rows, its tokens, channels], 32 bits, for independent rows.

        latents: [rows, tokens, channels], 32 bits, of the picture and its condition pictures; sigmas: [rows], 1 is
        noise; texts: each row's own embedding [text tokens, width]; grids: the pictures' heights and widths in tokens,
        shared by the rows; adapters: each row's own; cache: what the rows' requests can reuse, updated here.
        """
        ...

    def synchronize(self) -> None:
        """Wait until the device has done all work in the caller's stream."""
        ...

    def end(self) -> None:
        """Let processes beside this one end; nothing runs afterwards."""
        ...
