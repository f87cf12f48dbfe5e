"""Qwen-Image's autoencoder at its real size: the cost of decoding a picture and of reading one."""

from collections.abc import Iterator

import torch

from bench.gpu_sections.rig import Rig, Row, middle
from inference.models import autoencoder
from inference.request import TILE


@torch.inference_mode()
def decode(rig: Rig) -> Iterator[Row]:
    """Measure seconds and memory of decoding and of reading one picture, at the usual size and at the largest."""
    for side in (rig.scale.large, 2 * rig.scale.large):
        grid = (side // TILE, side // TILE)
        latents = torch.randn(grid[0] * grid[1], 64, device=rig.device)
        pixels = torch.rand(3, side, side, device=rig.device) * 2 - 1
        acts = {
            "decoded": lambda latents=latents, grid=grid: autoencoder.decode(rig.autoencoder, latents, grid),
            "read": lambda pixels=pixels: autoencoder.encode(rig.autoencoder, pixels),
        }
        for name, act in acts.items():
            rig.empty()
            took = rig.seconds({name: act})[name]
            yield {"": f"{side}² {name}", "ms": round(1000 * middle(took), 1), **rig.peak_memory()}
