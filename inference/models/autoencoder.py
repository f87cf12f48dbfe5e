"""Converts between the pixels of one picture and its latents, with diffusers' Qwen-Image autoencoder.

A picture is a film of one frame: the frames before it are zeros, so each causal 3-D convolution amounts to a 2-D one
with the last slice of its kernel in time. Run this way, the autoencoder keeps no state between frames.
"""

import types
from functools import partial

import numpy as np
import torch
from diffusers import AutoencoderKLQwenImage
from diffusers.models.autoencoders.autoencoder_kl_qwenimage import QwenImageCausalConv3d, QwenImageDecoder3d
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from PIL import Image
from torch.nn import functional

from inference import patches
from inference.state import Grid, Posterior

# of a piece that is decoded by itself and of what it sees around it, in latents; Qwen-Image's decoder sees 13 around
PIECE_SIDE = 32
SURROUNDINGS = 16


def flatten_time(autoencoder: AutoencoderKLQwenImage) -> AutoencoderKLQwenImage:
    """Restrict the autoencoder to single frames, in place: the results are equal, and several times faster."""
    for module in autoencoder.modules():
        if isinstance(module, QwenImageCausalConv3d):
            module.forward = types.MethodType(_convolve_one_frame, module)
    return autoencoder.eval()


def encode(autoencoder: AutoencoderKLQwenImage, pixels: torch.Tensor) -> Posterior:
    """Encode pixels [3, height, width] in -1..1 to packed latents, 32 bits, of a grid of 2x2 patches."""
    frames = autoencoder.encoder(pixels[None, :, None].to(autoencoder.dtype))
    posterior = DiagonalGaussianDistribution(autoencoder.quant_conv(frames))
    mean, std = _scale(autoencoder, frames)
    spread = ((posterior.mean - mean) / std, posterior.std / std)
    return Posterior(*(patches.pack(values[0, :, 0].float()) for values in spread))


def decode(
    autoencoder: AutoencoderKLQwenImage, latents: torch.Tensor, grid: Grid, *, in_pieces: bool = False
) -> torch.Tensor:
    """Decode packed latents [tokens, channels] of a grid of 2x2 patches to pixels [3, height, width] in -1..1."""
    spread = patches.unpack(latents, grid)[None, :, None].to(autoencoder.dtype)
    mean, std = _scale(autoencoder, spread)
    run = partial(_decode_in_pieces, autoencoder.decoder) if in_pieces else autoencoder.decoder
    frames = run(autoencoder.post_quant_conv(spread * std + mean))
    pixels: torch.Tensor = frames[0, :, 0].float().clamp(-1, 1)
    return pixels


def to_pixels(image: Image.Image) -> torch.Tensor:
    """Convert an RGB image to pixels [3, height, width] in -1..1."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255 * 2 - 1


def to_image(pixels: torch.Tensor) -> Image.Image:
    """Convert pixels [3, height, width] in -1..1 to an RGB image, rounded as in diffusers."""
    levels = ((pixels / 2 + 0.5) * 255).round().to(torch.uint8)
    return Image.fromarray(levels.permute(1, 2, 0).cpu().numpy())


def _decode_in_pieces(decoder: QwenImageDecoder3d, frames: torch.Tensor) -> torch.Tensor:
    """Run the decoder on a frame [1, channels, 1, height, width], all but its small middle piece by piece.

    The middle attends to the whole picture. After it only convolutions mix places, so a piece with enough of its
    surroundings gives the same pixels.
    """
    middle = decoder.mid_block(decoder.conv_in(frames))
    height, width = middle.shape[-2:]
    rows = []
    for top in range(0, height, PIECE_SIDE):
        row = []
        for left in range(0, width, PIECE_SIDE):
            above, before = max(0, top - SURROUNDINGS), max(0, left - SURROUNDINGS)
            part = middle[..., above : top + PIECE_SIDE + SURROUNDINGS, before : left + PIECE_SIDE + SURROUNDINGS]
            painted = part
            for block in decoder.up_blocks:
                painted = block(painted)
            painted = decoder.conv_out(decoder.nonlinearity(decoder.norm_out(painted)))
            scale = painted.shape[-1] // part.shape[-1]
            down, along = scale * (top - above), scale * (left - before)
            row.append(painted[..., down : down + scale * PIECE_SIDE, along : along + scale * PIECE_SIDE])
        rows.append(torch.cat(row, -1))
    return torch.cat(rows, -2)


def _scale(autoencoder: AutoencoderKLQwenImage, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the mean and deviation [1, channels, 1, 1, 1] by which the transformer's latents are normalised."""
    mean, std = (
        torch.tensor(values).view(1, -1, 1, 1, 1).to(like)
        for values in (autoencoder.config.latents_mean, autoencoder.config.latents_std)
    )
    return mean, std


def _convolve_one_frame(
    self: QwenImageCausalConv3d, x: torch.Tensor, cache_x: torch.Tensor | None = None
) -> torch.Tensor:
    assert x.shape[2] == 1
    assert cache_x is None
    # diffusers keeps the padding as (width, width, height, height, time, 0)
    padding = (self._padding[2], self._padding[0])
    flat = functional.conv2d(x[:, :, 0], self.weight[:, :, -1], self.bias, self.stride[1:], padding)
    return flat.unsqueeze(2)
