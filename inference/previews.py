"""Small previews straight from latents, without the autoencoder's decoder: one pixel for each cell of 8 by 8.

A cell's colour is a linear function of its latents and of fixed random features of them (Rahimi and Recht 2008): the
latents alone say too little, in the house model's autoencoder at least. The function is fitted by least squares to
pictures and what the autoencoder makes of them, and lies beside the model in `previews.json`; without it there are no
previews. `python -m inference.previews --model FOLDER PICTURE…` fits it; the house model's is fitted to its own world.
"""

import argparse
import json
import random
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from diffusers import AutoencoderKLQwenImage
from PIL import Image, ImageOps

from inference import patches
from inference.house_model.world import draw_scene, render
from inference.models import autoencoder, catalog
from inference.request import TILE
from inference.state import Grid

FILE = "previews.json"
FEATURES = 192
# pictures are fitted at this many pixels a side at most
LARGEST = 256
CELL = TILE // 2


class Colours(NamedTuple):
    """Latents with a one below them are seen through `features` [features, channels + 1]; these and they, through
    `weights` [3, features + channels + 1], are colours in -1..1."""

    features: torch.Tensor
    weights: torch.Tensor

    def draw(self, latents: torch.Tensor, grid: Grid) -> Image.Image:
        """Packed latents [tokens, channels] → an RGB picture an eighth as wide and high as the whole one."""
        cells = patches.unpack(latents.float(), grid)
        colours = self.weights @ _seen(self.features, cells)
        return autoencoder.to_image(colours.view(3, *cells.shape[1:]).clamp(-1, 1))

    def save(self, folder: Path) -> None:
        rounded = {
            name: [[round(value, 5) for value in row] for row in rows.tolist()] for name, rows in self._asdict().items()
        }
        (folder / FILE).write_text(json.dumps(rounded) + "\n")


def load(folder: str, device: torch.device) -> Colours | None:
    """What lies beside the model; None where nothing does."""
    path = Path(folder, FILE)
    if not path.is_file():
        return None
    return Colours(**{name: torch.tensor(rows, device=device) for name, rows in json.loads(path.read_text()).items()})


@torch.inference_mode()
def fit(vae: AutoencoderKLQwenImage, pictures: Iterable[Image.Image]) -> Colours:
    """The function for an autoencoder that takes single frames, from RGB pictures whose sides are whole tiles."""
    cells, colours = [], []
    for picture in pictures:
        grid = picture.height // TILE, picture.width // TILE
        latents = autoencoder.encode(vae, autoencoder.to_pixels(picture)).mean
        cells.append(patches.unpack(latents, grid).flatten(1))
        colours.append(autoencoder.to_pixels(picture.reduce(CELL)).flatten(1))
    latents = torch.cat(cells, 1)
    features = torch.randn(FEATURES, len(latents) + 1, generator=torch.Generator().manual_seed(0))
    seen = _seen(features, latents).double()
    ridge = 1e-4 * seen.shape[1] * torch.eye(len(seen), dtype=seen.dtype)
    weights = torch.linalg.solve(seen @ seen.T + ridge, seen @ torch.cat(colours, 1).T.double())
    return Colours(features, weights.T.float())


def world(count: int = 80) -> Iterator[Image.Image]:
    """Pictures of the house model's world, of 128 pixels a side."""
    dice = random.Random(19)
    for _ in range(count):
        yield Image.fromarray(render(draw_scene(dice), 128, 128))


def _seen(features: torch.Tensor, cells: torch.Tensor) -> torch.Tensor:
    flat = cells.flatten(1)
    flat = torch.cat([flat, torch.ones_like(flat[:1])])
    return torch.cat([torch.relu(features @ flat), flat])


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
