"""How far a request has come: the row state of its picture, and its standing with the engine.

Row state lives here and nowhere else, so that requests at different steps can share a forward. Whichever of the
engine's threads has the request in a batch writes it; others may read `step_index`. Loads no torch.
"""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import torch
    from PIL import Image

    from inference.adapters.bank import Loan

# height and width in image tokens
Grid = tuple[int, int]


class Posterior(NamedTuple):
    """What the autoencoder says of an input picture's latents: mean and deviation, each [tokens, channels]."""

    mean: torch.Tensor
    std: torch.Tensor


class Inpainting(NamedTuple):
    """Latents of the original, the noise they were given and 1 where they are painted anew, each [tokens, channels]."""

    original: torch.Tensor
    noise: torch.Tensor
    mask: torch.Tensor


class StepMemory(NamedTuple):
    """What the first block and the others added to the picture when all last ran, each [sequences, tokens, width]; with
    guidance there are two sequences."""

    first: torch.Tensor
    others: torch.Tensor


@dataclass(frozen=True)
class Picture:
    """A finished picture: RGB image, steps done and skipped, seconds from its first work to its last.

    `steps_reused`: how many of the steps done ran the first block only (see `inference.step_cache`).
    `similarity` is that of the prompt whose latents it began from; None where it began from noise.
    """

    image: Image.Image
    steps_run: int
    steps_skipped: int
    seconds: float
    seconds_waited: float
    steps_reused: int = 0
    similarity: float | None = None


@dataclass(eq=False)
class RowState:
    """Written phase by phase, all of a phase at once. `x0` is the finished picture's latents as far as the last step
    predicted them; `condition_grids` are the sizes at which an edit's pictures join the sequence."""

    condition_grids: tuple[Grid, ...] = ()
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
    """A request's standing with the engine: the future of its picture, its loan of adapters, and when it was taken and
    first worked on (monotonic seconds)."""

    future: Future[Picture] = field(default_factory=Future)
    loan: Loan | None = None
    submitted_at: float = 0.0
    started_at: float = 0.0
