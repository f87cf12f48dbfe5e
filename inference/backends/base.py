"""What the runner asks of a backend: one forward of the transformer over a batch of rows. Nothing else."""

from collections.abc import Sequence
from typing import Protocol

import torch


class Backend(Protocol):
    """A transformer somewhere: in torch, ONNX Runtime or a TensorRT plan."""

    name: str

    def velocity(
        self,
        latents: torch.Tensor,
        sigmas: torch.Tensor,
        texts: Sequence[torch.Tensor],
        grid: tuple[int, int],
    ) -> torch.Tensor:
        """Predict the flow's velocity [rows, tokens, channels], 32 bits, for rows that do not see one
        another.

        latents: [rows, tokens, channels], 32 bits; sigmas: [rows], 1 is noise; texts: each row's own
        embedding [text tokens, width]; grid: the picture's height and width in tokens, shared by the rows.
        """
        ...

    def synchronize(self) -> None:
        """Return once the device has done what it was given."""
        ...
