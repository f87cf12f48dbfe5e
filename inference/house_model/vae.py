"""Training of the autoencoder on crops and whole pictures in many styles, and its use on single pictures.

The model is diffusers' AutoencoderKLQwenImage, trained with its convolutions flattened to single frames. What the house
model draws, filled shapes in twelve colours, is less than half of what it sees: adapters draw thin lines, frames and
colours of their own, and cannot draw what the autoencoder does not keep.
"""

import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from diffusers import AutoencoderKLQwenImage
from torch.nn import functional

from inference.house_model import styles
from inference.house_model.pace import Pace
from inference.house_model.stage import Stage
from inference.house_model.world import POSITIONS, Pixels, Scene, draw_scene, render
from inference.models.autoencoder import flatten_time

Size = tuple[int, int]
Coder = Callable[[torch.Tensor], torch.Tensor]

CROP, CROPS = 64, 16
# (width, height) of the pictures that crops are cut from, and their shares
CROPPED: dict[Size, float] = {(64, 64): 0.1, (128, 128): 0.5, (192, 192): 0.15, (256, 256): 0.15, (512, 512): 0.1}
# of every batch, the share of whole pictures; their sizes and shares
WHOLE_SHARE = 0.3
WHOLES: dict[Size, float] = {(128, 128): 0.6, (256, 256): 0.3, (512, 512): 0.1}
# the whole pictures that only the decoder is trained on
DECODED: dict[Size, float] = {
    (128, 128): 0.4,
    (192, 128): 0.12,
    (128, 192): 0.12,
    (256, 256): 0.2,
    (384, 384): 0.1,
    (512, 512): 0.06,
}
BATCH_PIXELS = 4 * 128 * 128
# pictures drawn beforehand for each size, and how many of them are new each time that the size comes
KEPT_PIXELS, FRESH = 512 * 128 * 128, 2
RATE, RATE_FROM_FORMER, DECODER_RATE = 2.5e-3, 4e-4, 1e-3
DECAY = 0.998
TIE = 0.5
MEASURED = 384


@dataclass(frozen=True)
class Example:
    """A picture, where its shapes are, and whether it looks as the world draws."""

    picture: Pixels
    scene: Scene
    plain: bool


def to_tensor(pictures: npt.NDArray[np.uint8]) -> torch.Tensor:
    """Convert bytes (batch, height, width, 3) to floats (batch, 3, 1, height, width) in -1..1."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).unsqueeze(2).float() / 127.5 - 1


def _example(dice: random.Random, size: Size) -> Example:
    scene, style = draw_scene(dice, pair_share=0.4), styles.draw_style(dice)
    return Example(styles.render(scene, style, *size), scene, style.plain)


class Examples:
    """Pictures of several sizes, always some new ones among many old ones, since drawing takes longer than learning."""

    def __init__(self, dice: random.Random) -> None:
        self._dice, self._kept = dice, {}  # type: ignore[var-annotated]

    def draw(self, size: Size, count: int) -> list[Example]:
        """Return `count` examples of one size."""
        room = max(KEPT_PIXELS // (size[0] * size[1]), 2 * count)
        kept: list[Example] = self._kept.setdefault(size, [])
        fresh = [_example(self._dice, size) for _ in range(count if len(kept) < room else min(FRESH, count))]
        for example in fresh:
            if len(kept) < room:
                kept.append(example)
            else:
                kept[self._dice.randrange(room)] = example
        return fresh + [self._dice.choice(kept) for _ in range(count - len(fresh))]


def _crop(example: Example, dice: random.Random) -> Pixels:
    """Cut out a part, four of five times round a shape."""
    height, width = example.picture.shape[:2]
    if dice.random() < 0.8:
        x, y = POSITIONS[dice.choice(example.scene.shapes).position]
        left = int(x * width - CROP / 2 + dice.uniform(-0.6, 0.6) * CROP)
        top = int(y * height - CROP / 2 + dice.uniform(-0.6, 0.6) * CROP)
    else:
        left, top = dice.randint(0, width - CROP), dice.randint(0, height - CROP)
    left, top = min(max(left, 0), width - CROP), min(max(top, 0), height - CROP)
    return example.picture[top : top + CROP, left : left + CROP]


def _chosen(dice: random.Random, shares: dict[Size, float]) -> Size:
    return dice.choices(list(shares), list(shares.values()))[0]


def _batches(dice: random.Random) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield pictures, crops or wholes, (batch, 3, 1, height, width), and which of them look as the world draws."""
    examples = Examples(dice)
    while True:
        if dice.random() < WHOLE_SHARE:
            width, height = size = _chosen(dice, WHOLES)
            drawn = examples.draw(size, max(BATCH_PIXELS // (width * height), 1))
            pictures = [example.picture for example in drawn]
        else:
            counts = dice.choices(list(CROPPED), list(CROPPED.values()), k=CROPS)
            drawn = [one for size in CROPPED for one in examples.draw(size, counts.count(size))]
            pictures = [_crop(example, dice) for example in drawn]
        yield to_tensor(np.stack(pictures)), torch.tensor([example.plain for example in drawn])


def _difference(decoded: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
    """Return how far decoded pixels are from those drawn, (batch, 3, 1, height, width), mostly at edges and corners."""
    error, pixels = (decoded.float() - pixels)[:, :, 0], pixels[:, :, 0]
    across, down = pixels.diff(dim=-1).abs(), pixels.diff(dim=-2).abs()
    edges = functional.pad(across, (0, 1)).sum(dim=1) + functional.pad(down, (0, 0, 0, 1)).sum(dim=1)
    # edges are few pixels, but decide which shape one sees
    weight = 1 + 4 * functional.max_pool2d(edges.clamp(max=1), 5, stride=1, padding=2)
    slopes = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    loss: torch.Tensor = (weight[:, None] * (error.abs() + 2 * error.square())).mean() + 0.5 * slopes
    return loss


def _loss(
    autoencoder: AutoencoderKLQwenImage, pictures: torch.Tensor, kept: torch.Tensor, held: torch.Tensor
) -> torch.Tensor:
    """`kept` is the means that a former encoder gave, `held` (batch, channels, 1, 1, 1) how firmly to stay at them."""
    mean, logvar = autoencoder.quant_conv(autoencoder.encoder(pictures)).float().chunk(2, dim=1)
    logvar = logvar.clamp(-20, 10)
    sampled = mean + torch.exp(0.5 * logvar) * torch.randn_like(mean)
    decoded = autoencoder.decoder(autoencoder.post_quant_conv(sampled))
    divergence = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
    loss: torch.Tensor = _difference(decoded, pictures) + 2e-4 * divergence + (held * (mean - kept).square()).mean()
    return loss


def _optimizer(model: torch.nn.Module, rate: float) -> list[tuple[torch.optim.Optimizer, float]]:
    return [(torch.optim.AdamW(model.parameters(), betas=(0.9, 0.98), weight_decay=1e-3), rate)]


def train(
    autoencoder: AutoencoderKLQwenImage, checkpoint: Path, pace: Pace, former: AutoencoderKLQwenImage | None = None
) -> None:
    """Train in place until the pace's time is up, and end with the averaged weights.

    With a former autoencoder, latents of pictures that the transformer already knows stay near those of that one.
    """
    flatten_time(autoencoder)
    compiled = torch.compile(_loss, dynamic=False)
    stage = Stage(checkpoint, pace, autoencoder, _optimizer(autoencoder, RATE_FROM_FORMER if former else RATE), DECAY)
    firm = torch.zeros(1)
    if former:
        flatten_time(former)
        known = torch.compile(former.encoder, dynamic=True)
        firm = TIE / torch.tensor(former.config.latents_std).square()
    for pictures, plain in stage.steps(_batches(random.Random(pace.step + 1))):
        held = plain.view(-1, 1, 1, 1, 1) * firm.view(1, -1, 1, 1, 1)
        kept = encode(former, pictures, known)[:, :, None] if former else torch.zeros(1)
        with torch.autocast("cpu", torch.bfloat16):
            loss = compiled(autoencoder, pictures, kept, held)
        stage.learn([loss])


@torch.no_grad()
def encode(autoencoder: AutoencoderKLQwenImage, pictures: torch.Tensor, encoder: Coder | None = None) -> torch.Tensor:
    """Encode pictures (batch, 3, 1, height, width) to raw latents (batch, channels, height/8, width/8), the means.

    `encoder` replaces the autoencoder's own, for example compiled.
    """
    with torch.autocast("cpu", torch.bfloat16):
        forward = autoencoder.encoder if encoder is None else encoder
        moments = autoencoder.quant_conv(forward(pictures))
    means: torch.Tensor = moments.float().chunk(2, dim=1)[0]
    return means[:, :, 0]


def _decoding_loss(autoencoder: AutoencoderKLQwenImage, latents: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
    return _difference(autoencoder.decoder(autoencoder.post_quant_conv(latents)), pixels)


def refine(autoencoder: AutoencoderKLQwenImage, checkpoint: Path, pace: Pace) -> None:
    """Train only the decoder, in place, on whole pictures; the latents stay as they were."""
    flatten_time(autoencoder)
    compiled = torch.compile(_decoding_loss, dynamic=False)
    encoder = torch.compile(autoencoder.encoder, dynamic=True)
    dice = random.Random(pace.step + 5)
    stage = Stage(checkpoint, pace, autoencoder.decoder, _optimizer(autoencoder.decoder, DECODER_RATE), DECAY)
    noise = 0.05 * torch.tensor(autoencoder.config.latents_std).view(-1, 1, 1, 1)
    examples = Examples(dice)
    for width, height in stage.steps(_chosen(dice, DECODED) for _ in itertools.count()):
        drawn = examples.draw((width, height), max(BATCH_PIXELS // (width * height), 1))
        pixels = to_tensor(np.stack([example.picture for example in drawn]))
        latents = encode(autoencoder, pixels, encoder)[:, :, None]
        with torch.autocast("cpu", torch.bfloat16):
            loss = compiled(autoencoder, latents + noise * torch.randn_like(latents), pixels)
        stage.learn([loss])


@torch.no_grad()
def statistics(autoencoder: AutoencoderKLQwenImage) -> tuple[list[float], list[float]]:
    """Return the mean and standard deviation of each latent channel over a few hundred pictures of the world."""
    dice = random.Random(2)
    pictures = np.stack([render(draw_scene(dice)) for _ in range(MEASURED)])
    chunks = [to_tensor(pictures[start : start + 32]) for start in range(0, MEASURED, 32)]
    latents = torch.cat([encode(autoencoder, chunk) for chunk in chunks])
    return latents.mean(dim=(0, 2, 3)).tolist(), latents.std(dim=(0, 2, 3)).tolist()
