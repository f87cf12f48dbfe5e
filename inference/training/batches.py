"""Which examples a step learns from, under which captions and how much noise.

All of it follows from the seed and the step's number, so that nothing of it needs to be kept in a checkpoint. In an
epoch each example is learnt once, in batches of one bucket that are as equal in size as can be.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch

from inference.state import Grid
from inference.training.encoded import Encoded
from inference.training.hyperparameters import Hyperparameters

# noise levels at which an example measures
LEVELS = 8


class Batch(NamedTuple):
    """Rows of one bucket: clean latents, noise [rows, tokens, channels], noise levels [rows], condition, texts."""

    latents: torch.Tensor
    noise: torch.Tensor
    sigmas: torch.Tensor
    condition: torch.Tensor
    texts: list[torch.Tensor]
    grids: tuple[Grid, ...]


def draw(rows: Sequence[Encoded], chosen: Hyperparameters, step: int) -> Batch:
    """Return the batch of a step, counted from 0; rows whose texts are equally long are neighbours."""
    keys = tuple(row.grids for row in rows)
    epoch, index = divmod(step, len(_epoch(keys, chosen.batch, chosen.seed, 0)))
    drawn = [rows[number] for number in _epoch(keys, chosen.batch, chosen.seed, epoch)[index]]
    dice = np.random.default_rng((chosen.seed, step, 1))
    captioned = [
        (row, row.empty if dice.random() < chosen.dropout else row.texts[dice.integers(len(row.texts))])
        for row in drawn
    ]
    captioned.sort(key=lambda each: len(each[1]))
    normal = torch.from_numpy(dice.standard_normal(len(drawn), np.float32))
    uniform = torch.from_numpy(dice.random((2, len(drawn)), np.float32))
    sigmas = torch.sigmoid(chosen.noise_mean + chosen.noise_deviation * normal)
    return _batch(captioned, torch.where(uniform[0] < chosen.noise_uniform, uniform[1], sigmas), dice)


def measuring(row: Encoded, seed: int) -> Batch:
    """Return a batch that measures one example at LEVELS noise levels, the same whenever it is asked for."""
    sigmas = (torch.arange(LEVELS) + 0.5) / LEVELS
    return _batch([(row, row.texts[0])] * LEVELS, sigmas, np.random.default_rng((seed, 2)))


def _batch(captioned: Sequence[tuple[Encoded, torch.Tensor]], sigmas: torch.Tensor, dice: np.random.Generator) -> Batch:
    latents = torch.stack([row.latents for row, _ in captioned]).float()
    return Batch(
        latents,
        torch.from_numpy(dice.standard_normal(latents.shape, np.float32)),
        sigmas,
        torch.stack([row.condition for row, _ in captioned]).float(),
        [text for _, text in captioned],
        captioned[0][0].grids,
    )


@lru_cache(maxsize=4)
def _epoch(keys: tuple[tuple[Grid, ...], ...], batch: int, seed: int, epoch: int) -> list[list[int]]:
    """Return an epoch's batches as numbers of rows; `keys` are the buckets of all rows."""
    dice = np.random.default_rng((seed, epoch, 0))
    batches: list[list[int]] = []
    for key in dict.fromkeys(keys):
        members = dice.permutation([number for number, other in enumerate(keys) if other == key])
        batches += [part.tolist() for part in np.array_split(members, -(-len(members) // batch))]
    return [batches[number] for number in dice.permutation(len(batches))]
