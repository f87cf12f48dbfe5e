"""Fits previews to a model's autoencoder: `python -m inference.training.previews --model FOLDER PICTURE…`.

Without pictures it fits to the house model's own world. It fits the function of `inference.previews` by least squares.
"""

import argparse
import random
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from diffusers import AutoencoderKLQwenImage
from PIL import Image, ImageOps

from inference import patches
from inference.house_model.world import draw_scene, render
from inference.models import autoencoder, catalog
from inference.previews import CELL, FEATURES, Colours, seen
from inference.request import TILE

# pictures are used at no more than this many pixels a side
LARGEST = 256


@torch.inference_mode()
def fit(vae: AutoencoderKLQwenImage, pictures: Iterable[Image.Image]) -> Colours:
    """Fit the function of an autoencoder for single frames to RGB pictures whose sides are whole tiles."""
    cells, colours = [], []
    for picture in pictures:
        grid = picture.height // TILE, picture.width // TILE
        latents = autoencoder.encode(vae, autoencoder.to_pixels(picture)).mean
        cells.append(patches.unpack(latents, grid).flatten(1))
        colours.append(autoencoder.to_pixels(picture.reduce(CELL)).flatten(1))
    latents = torch.cat(cells, 1)
    features = torch.randn(FEATURES, len(latents) + 1, generator=torch.Generator().manual_seed(0))
    inputs = seen(features, latents).double()
    ridge = 1e-4 * inputs.shape[1] * torch.eye(len(inputs), dtype=inputs.dtype)
    weights = torch.linalg.solve(inputs @ inputs.T + ridge, inputs @ torch.cat(colours, 1).T.double())
    return Colours(features, weights.T.float())


def world(count: int = 80) -> Iterator[Image.Image]:
    """Draw pictures of the house model's world, 128 pixels a side."""
    dice = random.Random(19)
    for _ in range(count):
        yield Image.fromarray(render(draw_scene(dice), 128, 128))


def _whole_tiles(path: Path) -> Image.Image:
    with Image.open(path) as image:
        fitted = ImageOps.contain(image.convert("RGB"), (LARGEST, LARGEST))
    return fitted.crop((0, 0, fitted.width // TILE * TILE, fitted.height // TILE * TILE))


def main() -> None:
    parser = argparse.ArgumentParser(description="Fit small previews to a model's autoencoder.")
    parser.add_argument("--model", type=Path, default=catalog.HOUSE_MODEL, help="a diffusers folder")
    parser.add_argument("pictures", type=Path, nargs="*", help="of the kind that the model makes; 50 will do")
    chosen = parser.parse_args()
    folder = Path(catalog.card(chosen.model).path)
    vae = AutoencoderKLQwenImage.from_pretrained(folder, subfolder="vae", dtype=torch.float32)
    pictures = map(_whole_tiles, chosen.pictures) if chosen.pictures else world()
    fit(autoencoder.flatten_time(vae), pictures).save(folder)


if __name__ == "__main__":
    main()
