"""Fits previews to a model's autoencoder: `python -m inference.training.previews --model FOLDER PICTURE…`.

Without pictures it fits to the house model's own world. It fits the function of `inference.previews` by least squares.
"""

import argparse
from pathlib import Path

import torch
from diffusers import AutoencoderKLQwenImage
from PIL import Image, ImageOps

from inference import picture_files, previews
from inference.card import ModelCard
from inference.errors import InvalidPicture
from inference.house_model import world
from inference.models import autoencoder, catalog
from inference.request import TILE

# pictures are used at no more than this many pixels a side
LARGEST = 256


def _whole_tiles(path: Path, card: ModelCard) -> Image.Image:
    fitted = ImageOps.contain(picture_files.open_image(path, card), (LARGEST, LARGEST))
    return fitted.crop((0, 0, fitted.width // TILE * TILE, fitted.height // TILE * TILE))


def main() -> None:
    parser = argparse.ArgumentParser(description="Fit small previews to a model's autoencoder.")
    parser.add_argument("--model", type=Path, default=catalog.HOUSE_MODEL, help="a diffusers folder")
    parser.add_argument("pictures", type=Path, nargs="*", help="of the kind that the model makes; 50 will do")
    chosen = parser.parse_args()
    card = catalog.card(chosen.model)
    folder = Path(card.path)
    vae = AutoencoderKLQwenImage.from_pretrained(folder, subfolder="vae", dtype=torch.float32)
    pictures = (_whole_tiles(path, card) for path in chosen.pictures) if chosen.pictures else world.pictures()
    try:
        previews.fit(autoencoder.flatten_time(vae), pictures).save(folder)
    except InvalidPicture as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
