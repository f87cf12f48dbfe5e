"""Packs latents into the transformer's tokens: each patch of two by two becomes one."""

import torch


def pack(spread: torch.Tensor) -> torch.Tensor:
    """Pack [channels, 2 * rows, 2 * columns] into [rows * columns, 4 * channels], in diffusers' order."""
    channels, height, width = spread.shape
    patches = spread.reshape(channels, height // 2, 2, width // 2, 2).permute(1, 3, 0, 2, 4)
    return patches.reshape(height * width // 4, 4 * channels)


def unpack(latents: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """Unpack [rows * columns, 4 * channels] into [channels, 2 * rows, 2 * columns]; the inverse of `pack`."""
    rows, columns = grid
    channels = latents.shape[-1] // 4
    patches = latents.view(rows, columns, channels, 2, 2).permute(2, 0, 3, 1, 4)
    return patches.reshape(channels, 2 * rows, 2 * columns)
