"""A request's progress: the row state of its picture, and its ticket in the engine.

Row state lives here and nowhere else, so that requests at different steps can share a forward. Only the engine's thread
that has the request in a batch writes it; others may read `step_index`. Loads no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import torch
    from PIL import Image

    from inference.adapters.bank import Loan
    from inference.adapters.weights import Row

# height and width in image tokens
Grid = tuple[int, int]


class Posterior(NamedTuple):
    """The autoencoder's distribution of an input picture's latents: mean and deviation, each [tokens, channels]."""

    mean: torch.Tensor
    std: torch.Tensor


class Inpainting(NamedTuple):
    """Latents of the original, the noise added to them, and 1 where they are repainted, each [tokens, channels]."""

    original: torch.Tensor
    noise: torch.Tensor
    mask: torch.Tensor


class StepMemory(NamedTuple):
    """What the first block and the others added to the picture when all blocks last ran, each [sequences, tokens,
    width]; with guidance there are two sequences."""

    first: torch.Tensor
    others: torch.Tensor


@dataclass(frozen=True)
class Picture:
    """A finished picture: RGB image, steps run and skipped, seconds from its first batch to its end.

    `seconds_waited`: from submission to its first batch. `steps_reused`: how many of the steps run used the first block
    only (see `inference.step_cache`). `similarity`: that of the prompt whose latents it began from; None if it began
    from noise. `warnings`: what of its adapters' files was ignored.
    """

    image: Image.Image
    steps_run: int
    steps_skipped: int
    seconds: float
    seconds_waited: float
    steps_reused: int = 0
    similarity: float | None = None
    warnings: tuple[str, ...] = ()


@dataclass(eq=False)
class RowState:
    """The progress of one row, written at the end of each phase. `x0` is the last step's prediction of the finished
    latents; `condition_grids` are the sizes at which an edit's pictures join the sequence; `sampler` configures the
    noise schedule that the adapters' recipe asks for; None: the model's own."""

    condition_grids: tuple[Grid, ...] = ()
    sampler: Mapping[str, Any] | None = None
    step_index: int = 0
    steps_reused: int = 0
    steps_skipped: int = 0
    similarity: float | None = None
    sigmas: tuple[float, ...] = ()
    posteriors: tuple[Posterior, ...] = ()
    latents: torch.Tensor | None = None
    x0: torch.Tensor | None = None
    step_memory: StepMemory | None = None
    condition: torch.Tensor | None = None
    inpainting: Inpainting | None = None
    text: torch.Tensor | None = None
    negative_text: torch.Tensor | None = None
    generator: torch.Generator | None = None
    image: Image.Image | None = None


@dataclass(eq=False)
class Ticket:
    """A request's place in the engine: the future of its picture, its loan of adapters, and when it was submitted and
    first run (monotonic seconds)."""

    future: Future[Picture] = field(default_factory=Future)
    loan: Loan | None = None
    submitted_at: float = 0.0
    started_at: float = 0.0

    @property
    def adapters(self) -> Row:
        """The adapters on loan, each with its scale."""
        return self.loan.row if self.loan else ()
