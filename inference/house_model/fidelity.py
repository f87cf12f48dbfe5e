"""What the autoencoder keeps of true drawings: `python -m inference.house_model.fidelity`.

Drawings are encoded, decoded and read by the judge: the world's own at each size, and outlined shapes, which adapters
draw with it. Of the other styles, the figure is the difference of pixels.
"""

import argparse
import random
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKLQwenImage

from inference.house_model import WEIGHTS, styles, vae
from inference.house_model.judge import judge
from inference.house_model.styles import Style
from inference.house_model.world import Pixels, Scene, draw_scene
from inference.models.autoencoder import flatten_time

SIZES = ((128, 128), (192, 128), (256, 256), (512, 512))
LINES = (0.0, 0.03, 0.045)


@torch.inference_mode()
def decoded(autoencoder: AutoencoderKLQwenImage, picture: Pixels) -> Pixels:
    """Encode and decode a (height, width, 3) picture."""
    latents = autoencoder.encode(vae.to_tensor(picture[None])).latent_dist.mode()
    pixels = autoencoder.decode(latents).sample[0, :, 0].clamp(-1, 1)
    levels: Pixels = ((pixels / 2 + 0.5) * 255).round().byte().permute(1, 2, 0).numpy()
    return levels


def _share(values: Iterable[bool]) -> float:
    return round(float(np.mean(list(values))), 4)


def read_rightly(
    autoencoder: AutoencoderKLQwenImage, scenes: list[Scene], size: tuple[int, int], line: float
) -> tuple[float, float]:
    """Return the shares of scenes, held-out ones or any, that the judge finds right as drawn, and decoded.

    `line` is the thickness of outlined shapes, as a share of the shorter side; 0: shapes are filled.
    """
    drawn = [styles.render(scene, Style(line=line), *size) for scene in scenes]
    kept = [decoded(autoencoder, picture) for picture in drawn]
    first, second = (
        _share(judge(scene, picture, line).followed for scene, picture in zip(scenes, pictures, strict=True))
        for pictures in (drawn, kept)
    )
    return first, second


def measure(folder: str | Path, count: int = 400) -> dict[str, float]:
    """Measure the autoencoder of a model folder on `count` drawings of each size and line, an eighth at 512 pixels."""
    autoencoder = flatten_time(AutoencoderKLQwenImage.from_pretrained(folder, subfolder="vae", dtype=torch.float32))
    dice = random.Random(13)
    found: dict[str, float] = {}
    for line in LINES:
        for size in SIZES:
            some = count if max(size) < 512 else count // 8
            scenes = [draw_scene(dice, held_out=True) for _ in range(some)]
            drawn, kept = read_rightly(autoencoder, scenes, size, line)
            name = f"{size[0]}x{size[1]}, {f'outlined {line:.1%}' if line else 'filled'}"
            found |= {f"{name}, as drawn": drawn, f"{name}, decoded": kept}
    for name, style in styles.STYLES.items():
        pictures = [styles.render(draw_scene(dice), style) for _ in range(count // 8)]
        errors = [np.abs(decoded(autoencoder, picture).astype(int) - picture).mean() for picture in pictures]
        found[f"{name}, levels off"] = round(float(np.mean(errors)), 2)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure what the autoencoder keeps of true drawings.")
    parser.add_argument("--model", default=WEIGHTS, help="a folder with its vae (default: the house model)")
    parser.add_argument("--count", type=int, default=400, help="drawings of each size and line (default: %(default)s)")
    chosen = parser.parse_args()
    for name, value in measure(chosen.model, chosen.count).items():
        sys.stdout.write(f"{name:>44}  {value}\n")


if __name__ == "__main__":
    main()
