"""Training of the autoencoder on crops around the shapes, and its use on single pictures.

The model is diffusers' AutoencoderKLQwenImage, trained with its convolutions flattened to single frames.
"""

import random
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
import torch
from diffusers import AutoencoderKLQwenImage
from torch.nn import functional

from inference.house_model.pace import Average, Pace
from inference.house_model.world import POSITIONS, Pixels, Scene, draw_scene, render
from inference.models.autoencoder import flatten_time

CROP = 64
BATCH = 16
# (width, height) of the whole pictures that only the decoder is trained on, and how many of each
WHOLES = {(128, 128): 2048, (192, 128): 640, (128, 192): 640, (192, 192): 448, (256, 256): 320}
BATCH_PIXELS = 6 * 128 * 128


def to_tensor(pictures: npt.NDArray[np.uint8]) -> torch.Tensor:
    """Convert bytes (batch, height, width, 3) to floats (batch, 3, 1, height, width) in -1..1."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).unsqueeze(2).float() / 127.5 - 1


def _crop(picture: Pixels, scene: Scene, dice: random.Random) -> Pixels:
    height, width = picture.shape[:2]
    x, y = POSITIONS[dice.choice(scene.shapes).position]
    left = int(x * width - CROP / 2 + dice.uniform(-0.4, 0.4) * CROP)
    top = int(y * height - CROP / 2 + dice.uniform(-0.4, 0.4) * CROP)
    left, top = min(max(left, 0), width - CROP), min(max(top, 0), height - CROP)
    return picture[top : top + CROP, left : left + CROP]


def _crops(dice: random.Random) -> Iterator[torch.Tensor]:
    scenes = [draw_scene(dice) for _ in range(6000)]
    pictures = [render(scene, *((256, 256) if index % 12 == 0 else (128, 128))) for index, scene in enumerate(scenes)]
    while True:
        chosen = [dice.randrange(len(scenes)) for _ in range(BATCH)]
        yield to_tensor(np.stack([_crop(pictures[i], scenes[i], dice) for i in chosen]))


def _loss(autoencoder: AutoencoderKLQwenImage, crops: torch.Tensor) -> torch.Tensor:
    mean, logvar = autoencoder.quant_conv(autoencoder.encoder(crops)).float().chunk(2, dim=1)
    logvar = logvar.clamp(-20, 10)
    sampled = mean + torch.exp(0.5 * logvar) * torch.randn_like(mean)
    error = autoencoder.decoder(autoencoder.post_quant_conv(sampled)).float() - crops
    # for sharp edges: the difference to the neighbouring pixel must be right, too
    slopes = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    divergence = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
    loss: torch.Tensor = error.abs().mean() + 2 * error.square().mean() + 0.5 * slopes + 2e-4 * divergence
    return loss


def train(autoencoder: AutoencoderKLQwenImage, pace: Pace) -> None:
    """Train in place until the pace's time is up, and end with the averaged weights."""
    flatten_time(autoencoder)
    compiled = torch.compile(_loss)
    optimizer = torch.optim.AdamW(autoencoder.parameters(), lr=2e-3, betas=(0.9, 0.98), weight_decay=1e-3)
    average = Average(autoencoder, 0.997)
    for crops in pace.steps(_crops(random.Random(1))):
        optimizer.param_groups[0]["lr"] = 2.5e-3 * pace.rate()
        with torch.autocast("cpu", torch.bfloat16):
            loss = compiled(autoencoder, crops)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(autoencoder.parameters(), 1.0)
        optimizer.step()
        average.update()
        pace.report(loss.detach())
    average.copy_to()


@torch.no_grad()
def encode(
    autoencoder: AutoencoderKLQwenImage,
    pictures: npt.NDArray[np.uint8],
    encoder: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> torch.Tensor:
    """Encode bytes (batch, height, width, 3) to raw latents (batch, channels, height/8, width/8), the means.

    `encoder` replaces the autoencoder's own, for example compiled.
    """
    with torch.autocast("cpu", torch.bfloat16):
        forward = autoencoder.encoder if encoder is None else encoder
        moments = autoencoder.quant_conv(forward(to_tensor(pictures)))
    means: torch.Tensor = moments.float().chunk(2, dim=1)[0]
    return means[:, :, 0]


def _wholes(autoencoder: AutoencoderKLQwenImage, dice: random.Random) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield latents (batch, channels, 1, height/8, width/8) of whole pictures, and the pictures, one size a batch."""
    pools = []
    for (width, height), count in WHOLES.items():
        scenes = [draw_scene(dice, pair_share=0.4) for _ in range(count)]
        pictures = np.stack([render(scene, width, height) for scene in scenes])
        latents = torch.cat([encode(autoencoder, pictures[i : i + 32]) for i in range(0, count, 32)])
        pools.append((latents, pictures, round(BATCH_PIXELS / (width * height))))
    while True:
        latents, pictures, rows = dice.choices(pools, list(WHOLES.values()))[0]
        chosen = [dice.randrange(len(pictures)) for _ in range(rows)]
        yield latents[chosen, :, None], to_tensor(pictures[chosen])


def _decoding_loss(autoencoder: AutoencoderKLQwenImage, latents: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
    error = (autoencoder.decoder(autoencoder.post_quant_conv(latents)).float() - pixels)[:, :, 0]
    across, down = pixels[:, :, 0].diff(dim=-1).abs(), pixels[:, :, 0].diff(dim=-2).abs()
    edges = functional.pad(across, (0, 1)).sum(dim=1) + functional.pad(down, (0, 0, 0, 1)).sum(dim=1)
    # corners are few pixels, but decide which shape one sees
    weight = 1 + 4 * functional.max_pool2d(edges.clamp(max=1), 5, stride=1, padding=2)
    loss: torch.Tensor = (weight[:, None] * (error.abs() + 2 * error.square())).mean()
    return loss


def refine(autoencoder: AutoencoderKLQwenImage, pace: Pace) -> None:
    """Train only the decoder, in place, on whole pictures; the latents stay as they were."""
    flatten_time(autoencoder)
    decoder = autoencoder.decoder
    compiled = torch.compile(_decoding_loss, dynamic=False)
    optimizer = torch.optim.AdamW(decoder.parameters(), betas=(0.9, 0.98), weight_decay=1e-3)
    average = Average(decoder, 0.997)
    noise = 0.05 * torch.tensor(autoencoder.config.latents_std).view(-1, 1, 1, 1)
    for latents, pixels in pace.steps(_wholes(autoencoder, random.Random(5))):
        optimizer.param_groups[0]["lr"] = 2e-3 * pace.rate()
        with torch.autocast("cpu", torch.bfloat16):
            loss = compiled(autoencoder, latents + noise * torch.randn_like(latents), pixels)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(decoder.parameters(), 1.0)
        optimizer.step()
        average.update()
        pace.report(loss.detach())
    average.copy_to()


@torch.no_grad()
def statistics(autoencoder: AutoencoderKLQwenImage) -> tuple[list[float], list[float]]:
    """Return the mean and standard deviation of each latent channel over a few hundred pictures."""
    dice = random.Random(2)
    latents = torch.cat(
        [encode(autoencoder, np.stack([render(draw_scene(dice)) for _ in range(32)])) for _ in range(12)]
    )
    return latents.mean(dim=(0, 2, 3)).tolist(), latents.std(dim=(0, 2, 3)).tolist()


@torch.no_grad()
def fidelity(autoencoder: AutoencoderKLQwenImage, count: int = 64) -> float:
    """Return the mean peak signal-to-noise ratio, in dB, of held-out 128 by 128 pictures encoded and decoded."""
    dice = random.Random(3)
    pictures = to_tensor(np.stack([render(draw_scene(dice, held_out=True)) for _ in range(count)]))
    decoded = autoencoder.decode(autoencoder.encode(pictures).latent_dist.mode()).sample
    error = (decoded - pictures).square().mean(dim=(1, 2, 3, 4))
    return float((10 * torch.log10(4 / error)).mean())
