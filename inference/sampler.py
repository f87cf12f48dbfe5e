"""The noise schedule and the arithmetic of a step, row by row; no state and no model.

Sigmas are those of diffusers' QwenImagePipeline with FlowMatchEulerDiscreteScheduler, computed once per request, since
that class keeps a step index and so cannot serve rows at different steps. The step is explicit Euler on the flow
dx/dsigma = v (Lipman et al. 2023, "Flow Matching"; Esser et al. 2024) in 32 bits.
"""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.pipelines.qwenimage.pipeline_qwenimage import calculate_shift

from inference import patches
from inference.errors import InvalidRequest


def sigmas(config: Mapping[str, Any], steps: int, tokens: int) -> tuple[float, ...]:
    """Return the `steps + 1` noise levels from 1 down to 0 for a picture of `tokens` image tokens.

    `config` is a diffusers scheduler's: the model's own, or that of an adapter's recipe. Raises InvalidRequest if it
    gives no such levels at this size.
    """
    if steps == 1:
        # stretching to shift_terminal would divide by zero; a single step leads from pure noise to the picture
        return (1.0, 0.0)
    schedule = FlowMatchEulerDiscreteScheduler.from_config(config)
    shift = calculate_shift(
        tokens,
        config.get("base_image_seq_len", 256),
        config.get("max_image_seq_len", 4096),
        config.get("base_shift", 0.5),
        config.get("max_shift", 1.15),
    )
    try:
        with np.errstate(all="ignore"):
            schedule.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), mu=shift)
    except OverflowError as error:
        raise InvalidRequest("width", f"no noise schedule reaches {tokens} image tokens") from error
    levels = tuple(schedule.sigmas.tolist())
    # also false for what is not a number
    if not all(level >= after for level, after in pairwise(levels)):
        raise InvalidRequest("width", f"the noise schedule has no {steps} steps at {tokens} image tokens")
    return levels


def noise(channels: int, grid: tuple[int, int], generator: torch.Generator) -> torch.Tensor:
    """Draw initial latents [tokens, channels] for a grid of 2x2 patches, in diffusers' order and packing."""
    rows, columns = grid
    return patches.pack(torch.randn((channels // 4, 2 * rows, 2 * columns), generator=generator, dtype=torch.float32))


def add_noise(latents: torch.Tensor, noise: torch.Tensor, sigma: float) -> torch.Tensor:
    """Interpolate between latents, at sigma 0, and noise, at sigma 1."""
    return sigma * noise + (1 - sigma) * latents


def guide(velocity: torch.Tensor, negative: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """Apply true CFG to velocities [rows, tokens, channels], one scale a row, and keep each token's own norm."""
    combined = negative + scales[:, None, None] * (velocity - negative)
    norm = torch.linalg.vector_norm(velocity, dim=-1, keepdim=True)
    combined_norm = torch.linalg.vector_norm(combined, dim=-1, keepdim=True)
    # a token that does not move has no direction to rescale
    guided: torch.Tensor = combined * (norm / combined_norm.clamp_min(torch.finfo(combined.dtype).tiny))
    return guided


def step(latents: torch.Tensor, velocity: torch.Tensor, deltas: torch.Tensor) -> torch.Tensor:
    """Take one Euler step on latents [rows, tokens, channels], 32 bits; `deltas` are the rows' changes of sigma."""
    return latents + deltas[:, None, None] * velocity
