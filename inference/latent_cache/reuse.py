"""The engine's interface to a latent cache, so that the engine runs without any store installed."""

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
    """A latent cache as the engine uses it: quick, and never raising. One thread looks up, another one offers."""

    def look_up(self, request: Request) -> Hit | None:
        """Return latents for a request that was just encoded to begin from; None: begin from noise."""
        ...

    def offer(self, request: Request) -> None:
        """Record a request's latents after a step."""
        ...
