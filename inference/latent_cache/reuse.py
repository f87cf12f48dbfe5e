"""What the engine asks of a latent cache; so the engine runs where none of the stores can be reached or installed."""

from dataclasses import dataclass
from typing import Protocol

import torch

from inference.request import Request


@dataclass(frozen=True)
class Hit:
    """Latents [tokens, channels] to begin from, at `sigma`, which takes the place of the schedule's own at `step`.

    They come from `seed`, in a schedule of `steps`.
    """

    latents: torch.Tensor
    sigma: float
    step: int
    similarity: float
    seed: int
    steps: int


class Reuse(Protocol):
    """What the engine asks of a cache: quick, and never raising. One thread looks up, another one offers."""

    def look_up(self, request: Request) -> Hit | None:
        """Where a request that was just encoded may begin; None: at the beginning."""
        ...

    def offer(self, request: Request) -> None:
        """Take note of a request's latents after a step."""
        ...
