"""A request: the engine's work for one picture as it was asked for, and what follows from that, such as its size in
tokens, its phase, and which requests it can share a forward with. Its progress is in `inference.state`. Loads no torch.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

from inference.state import Grid, Picture, RowState, Ticket

if TYPE_CHECKING:
    from PIL import Image

# pixels a side of an image token: the autoencoder reduces eightfold, and a patch is two by two latents
TILE = 16
# of an order; its pictures' count up from it, and on from 0
MAX_SEED = 2**32 - 1
# by their share of a device, the largest first
SERVICE_CLASSES = ("interactive", "standard", "batch")


class Operation(StrEnum):
    """What a request does with its images: nothing, follow an instruction, start from one, repaint its masked part,
    extend it beyond its edges, or repaint a box of it, enlarged."""

    GENERATE = "generate"
    EDIT = "edit"
    IMG2IMG = "img2img"
    INPAINT = "inpaint"
    OUTPAINT = "outpaint"
    REDRAW = "redraw"

    @property
    def needs_prompt(self) -> bool:
        """Whether there is nothing to go by without a prompt."""
        return self in (Operation.GENERATE, Operation.EDIT)


class Phase(StrEnum):
    """A request's phases, in their order."""

    READ = "read"
    ENCODE = "encode"
    DENOISE = "denoise"
    DECODE = "decode"


class BatchKey(NamedTuple):
    """What requests must have in common to share a forward, in one engine.

    `alone` is unique to each deterministic request, and 0 for all others.
    """

    width: int
    height: int
    guided: bool
    condition_grids: tuple[Grid, ...]
    alone: int = 0


def steps_due(steps: int, strength: float) -> int:
    """Return how many of `steps` are to run: all of them, or the share by strength, as in diffusers' pipelines."""
    return steps - int(max(steps - min(steps * strength, steps), 0))


@dataclass(frozen=True, eq=False)
class Request:
    """One picture to make; `width` and `height` in pixels, `guidance_scale` 1 or less turns guidance off.

    `images` are an edit's input pictures, or the one picture that the other operations start from; they mean what a
    viewer shows of them (see `inference.appearance`). `strength` is how far those go back to noise, and so the share of
    the steps that they run. `mask` is white where inpaint repaints, and where an edit may change the first picture; the
    result has the size of that picture. `extend` is how far outpaint goes beyond the picture, in pixels: left, top,
    right, bottom; `width` and `height` are those of the canvas, the picture and its margins rounded up to whole tiles,
    and the rest is cut away. `box` is what redraw repaints, in pixels of its picture: left, top, right, bottom; the
    model paints it at `width` by `height`, and the result has the size of the picture.

    With `use_cache` it may begin from latents of an earlier picture of its account, and stores its own for later ones.

    `adapters` are LoRAs, each the path of a safetensors file and a scale; their changes add up. If one has a recipe,
    the noise schedule is the recipe's; `steps` and `guidance_scale` are this request's (see `catalog.defaults`).

    Guidance is Qwen-Image's "true CFG": if it is on and `negative_prompt` is empty, the empty prompt is the negative
    (as in diffusers' pipeline when given `negative_prompt=""`).

    A `deterministic` request shares no forward and is computed on a single CPU thread, so that it gives the same bits
    whatever else runs. `step_cache` is the threshold of `inference.step_cache`; 0 turns it off. `on_step` runs after
    each step in the engine's thread, so it must be quick.
    """

    prompt: str
    _: KW_ONLY
    negative_prompt: str = ""
    width: int
    height: int
    steps: int
    guidance_scale: float
    seed: int
    service_class: str = "standard"
    account: str = ""
    reference: str = ""
    operation: str = Operation.GENERATE
    images: tuple[Image.Image, ...] = field(default=(), repr=False)
    mask: Image.Image | None = field(default=None, repr=False)
    strength: float = 1.0
    adapters: tuple[tuple[str, float], ...] = ()
    extend: tuple[int, int, int, int] = (0, 0, 0, 0)
    box: tuple[int, int, int, int] | None = None
    deterministic: bool = False
    step_cache: float = 0.0
    on_step: Callable[[Request], object] | None = field(default=None, repr=False)
    use_cache: bool = False

    # not what was asked for: its progress
    state: RowState = field(default_factory=RowState, init=False, repr=False)
    ticket: Ticket = field(default_factory=Ticket, init=False, repr=False)

    @property
    def guided(self) -> bool:
        """Whether guidance is on."""
        return self.guidance_scale > 1

    @property
    def grid(self) -> Grid:
        """Height and width in image tokens."""
        return self.height // TILE, self.width // TILE

    @property
    def image_tokens(self) -> int:
        """Image tokens that this request adds to a forward, condition pictures included; twice as many if guided."""
        tokens = sum(rows * columns for rows, columns in (self.grid, *self.state.condition_grids))
        return tokens * (2 if self.guided else 1)

    @property
    def steps_due(self) -> int:
        return steps_due(self.steps, self.strength)

    @property
    def steps_run(self) -> int:
        """Steps run so far, without those that a hit of the latent cache skipped."""
        # another thread may read between the two writes of a hit, which writes `steps_skipped` first
        return max(0, self.state.step_index - self.state.steps_skipped)

    @property
    def batch_key(self) -> BatchKey:
        alone = id(self) if self.deterministic else 0
        return BatchKey(self.width, self.height, self.guided, self.state.condition_grids, alone)

    @property
    def phase(self) -> Phase:
        if self.state.latents is None:
            return Phase.READ if len(self.state.posteriors) < len(self.images) else Phase.ENCODE
        return Phase.DENOISE if self.state.step_index < self.steps_due else Phase.DECODE

    def picture(self) -> Picture:
        """Return the finished picture; the request must be decoded."""
        assert self.state.image is not None
        now = time.monotonic()
        return Picture(
            image=self.state.image,
            steps_run=self.steps_run,
            steps_skipped=self.state.steps_skipped,
            seconds=now - self.ticket.started_at,
            seconds_waited=self.ticket.started_at - self.ticket.submitted_at,
            steps_reused=self.state.steps_reused,
            similarity=self.state.similarity,
            warnings=tuple(warning for adapter, _ in self.ticket.adapters for warning in adapter.warnings),
        )
