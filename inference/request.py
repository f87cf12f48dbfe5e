"""One picture's work as it was asked for, and what follows from that: its size in tokens, its phase, who it can share a
forward with. How far it has come is `inference.state`'s. Loads no torch.
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

# a model sees a picture in tiles of 16x16 pixels: eightfold autoencoder, patches of two
TILE = 16
# by the share of a device that each is given, the largest first
SERVICE_CLASSES = ("interactive", "standard", "batch")


class Operation(StrEnum):
    """What a request does with its images: nothing, follow an instruction, start from one, repaint a masked part of it,
    go on beyond its edges, or repaint a box of it, seen enlarged."""

    GENERATE = "generate"
    EDIT = "edit"
    IMG2IMG = "img2img"
    INPAINT = "inpaint"
    OUTPAINT = "outpaint"
    REDRAW = "redraw"


class Phase(StrEnum):
    READ = "read"
    ENCODE = "encode"
    DENOISE = "denoise"
    DECODE = "decode"


class BatchKey(NamedTuple):
    """Requests with equal keys can share a forward; model revision and backend are the engine's own.

    `alone` is what sets a deterministic request apart from all others.
    """

    width: int
    height: int
    guided: bool
    condition_grids: tuple[Grid, ...]
    alone: int = 0


@dataclass(frozen=True, eq=False)
class Request:
    """One picture to make; `width` and `height` in pixels, `guidance_scale` 1 or less turns guidance off.

    `images` are what an edit is about, or the one picture that the other operations start from. `strength` is how far
    those go back to noise, and so the share of the steps that they do. `mask` is white where inpaint paints anew.
    `extend` is how far outpaint goes on, in pixels: left, top, right, bottom; `width` and `height` are of the canvas.
    `box` is what redraw paints anew, in pixels of its picture: left, top, right, bottom; it is seen at `width` by
    `height`, and the result has the size of the picture.

    With `use_cache` it may begin from latents of an earlier picture of its account, and leaves its own for later ones.

    `adapters` are LoRAs, each the path of a safetensors file and a scale; what they change adds up.

    Guidance is Qwen-Image's "true CFG": where it is on and `negative_prompt` is empty, the empty prompt is
    the negative (diffusers' pipeline does the same when given `negative_prompt=""`).

    A `deterministic` one shares no forward and is computed on one thread of the CPU, so that the same request gives the
    same bits whatever else runs. `step_cache` is the threshold of `inference.step_cache`; 0 turns it off.
    `on_step` runs after each step in the thread that makes them, so it must be quick.
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

    # not what was asked, but what came of it so far
    state: RowState = field(default_factory=RowState, init=False, repr=False)
    ticket: Ticket = field(default_factory=Ticket, init=False, repr=False)

    @property
    def guided(self) -> bool:
        return self.guidance_scale > 1

    @property
    def grid(self) -> Grid:
        return self.height // TILE, self.width // TILE

    @property
    def image_tokens(self) -> int:
        """Image tokens this request adds to a forward, condition pictures included; guidance runs it all twice."""
        tokens = sum(rows * columns for rows, columns in (self.grid, *self.state.condition_grids))
        return tokens * (2 if self.guided else 1)

    @property
    def steps_due(self) -> int:
        """How many of `steps` are done: all of them, or the share by strength that diffusers' pipelines do."""
        return self.steps - int(max(self.steps - min(self.steps * self.strength, self.steps), 0))

    @property
    def steps_run(self) -> int:
        return max(0, self.state.step_index - self.state.steps_skipped)  # of a hit, what was skipped is written first

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
        """The finished picture, once decoded."""
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
        )
