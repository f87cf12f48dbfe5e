"""A picture that is decoded in pieces is the one that is decoded whole."""

import pytest
import torch
from diffusers import AutoencoderKLQwenImage

from inference.models import autoencoder, catalog

GRID = 40, 52  # more than two pieces high and wide


def house() -> AutoencoderKLQwenImage:
    return AutoencoderKLQwenImage.from_pretrained(catalog.HOUSE_MODEL, subfolder="vae")


def untrained() -> AutoencoderKLQwenImage:
    """Make an autoencoder with the blocks of Qwen-Image's own, and few channels."""
    torch.manual_seed(0)
    return AutoencoderKLQwenImage(base_dim=8)


@pytest.mark.parametrize("make", [house, untrained])
@torch.inference_mode()
@pytest.mark.deep
def test_pieces_give_the_same_pixels(make):
    vae = autoencoder.flatten_time(make())
    latents = torch.randn(GRID[0] * GRID[1], 4 * vae.config.z_dim, generator=torch.Generator().manual_seed(0))
    whole = autoencoder.decode(vae, latents, GRID)
    in_pieces = autoencoder.decode(vae, latents, GRID, in_pieces=True)
    assert whole.shape == in_pieces.shape
    assert (whole - in_pieces).abs().max() < 1e-4


@torch.inference_mode()
@pytest.mark.deep
def test_no_piece_needs_the_memory_of_the_whole(monkeypatch):
    vae, seen = autoencoder.flatten_time(house()), []
    vae.decoder.conv_out.register_forward_pre_hook(lambda module, given: seen.append(given[0].shape[-2:].numel()))
    latents = torch.randn(GRID[0] * GRID[1], 4 * vae.config.z_dim)
    autoencoder.decode(vae, latents, GRID)
    autoencoder.decode(vae, latents, GRID, in_pieces=True)
    whole, *pieces = seen
    assert len(pieces) == 3 * 4
    assert max(pieces) <= 64 * 64 * 8 * 8 < whole
