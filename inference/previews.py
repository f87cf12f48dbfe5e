"""Small previews straight from latents, without the autoencoder's decoder: one pixel for each cell of 8 by 8.

A cell's colour is a linear function of its latents and of fixed random features of them (Rahimi and Recht 2008); the
latents alone say too little, at least in the house model's autoencoder. The function is fitted by least squares to
pictures and their latents, and stored beside the model in `previews.json`; without that file there are no previews.
`python -m inference.training.previews` fits it.
"""

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import torch
from diffusers import AutoencoderKLQwenImage
from PIL import Image

from inference import patches
from inference.models import autoencoder
from inference.request import TILE
from inference.state import Grid

FILE = "previews.json"
FEATURES = 192
CELL = TILE // 2


class Colours(NamedTuple):
    """The function from latents to colours in -1..1.

    `features` [features, channels + 1] makes random features of a cell's latents and a constant one; `weights` [3,
    features + channels + 1] makes colours of these, the latents and the one.
    """

    features: torch.Tensor
    weights: torch.Tensor

    def draw(self, latents: torch.Tensor, grid: Grid) -> Image.Image:
        """Draw packed latents [tokens, channels] as an RGB picture, an eighth as wide and high as the whole one."""
        cells = patches.unpack(latents.float(), grid)
        colours = self.weights @ _seen(self.features, cells)
        return autoencoder.to_image(colours.view(3, *cells.shape[1:]).clamp(-1, 1))

    def save(self, folder: Path) -> None:
        """Write the function beside the model in `folder`."""
        rounded = {
            name: [[round(value, 5) for value in row] for row in rows.tolist()] for name, rows in self._asdict().items()
        }
        (folder / FILE).write_text(json.dumps(rounded) + "\n")


def load(folder: str, device: torch.device) -> Colours | None:
    """Load the function stored beside the model; None if there is none."""
    path = Path(folder, FILE)
    if not path.is_file():
        return None
    return Colours(**{name: torch.tensor(rows, device=device) for name, rows in json.loads(path.read_text()).items()})


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
    inputs = _seen(features, latents).double()
    ridge = 1e-4 * inputs.shape[1] * torch.eye(len(inputs), dtype=inputs.dtype)
    weights = torch.linalg.solve(inputs @ inputs.T + ridge, inputs @ torch.cat(colours, 1).T.double())
    return Colours(features, weights.T.float())


def _seen(features: torch.Tensor, cells: torch.Tensor) -> torch.Tensor:
    """Return the inputs of the linear function, by cell: random features, latents and a one."""
    flat = cells.flatten(1)
    flat = torch.cat([flat, torch.ones_like(flat[:1])])
    return torch.cat([torch.relu(features @ flat), flat])


if __name__ == "__main__":
    sys.exit("Previews are fitted by: python -m inference.training.previews")
