"""Skips most of a step that would change little: the first block runs for every request, and if what it adds to the
picture has hardly changed since all blocks last ran, what the others added then is added again.

The first-block cache of ParaAttention and diffusers, after TeaCache (Liu et al. 2024), but decided for each request of
a batch: those that reuse leave the forward after the first block, and the rest go on without them.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn

from inference.state import StepMemory

# restricts a forward to some of its rows, each with its own adapters
Only = Callable[[Sequence[int]], AbstractContextManager[None]]


class StepCache:
    """The step cache of one forward: each request's threshold and memory; afterwards the memories to keep, and which
    requests reused theirs. A threshold is the relative change below which a request reuses; at 0 it never does."""

    def __init__(self, thresholds: Sequence[float], memories: Sequence[StepMemory | None]) -> None:
        self.thresholds = thresholds
        self.memories = list(memories)
        self.reused = [False] * len(memories)

    def run(
        self,
        blocks: Sequence[nn.Module],
        only: Only,
        tokens: int,
        *,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        **shared: Any,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Run all blocks as one; return text and image streams [rows, tokens, width], as a block of diffusers does.

        A request's sequences are as many rows apart as there are requests. `tokens` counts those of the picture being
        made; the condition's tokens behind them are not needed afterwards.
        """
        first, *others = blocks
        text, image = first(hidden_states=hidden_states, encoder_hidden_states=encoder_hidden_states, **shared)
        added = self._by_request((image - hidden_states)[:, :tokens])
        self.reused = self._unchanged(added)
        rows = [row for row in range(len(image)) if not self.reused[row % len(self.reused)]]
        result = image.clone()
        if rows:
            result[rows] = _run(others, only, rows, text, image, shared)
        added_by_others = self._by_request((result - image)[:, :tokens])
        picture = self._by_request(result[:, :tokens])
        for index, reused in enumerate(self.reused):
            memory = self.memories[index]
            if reused and memory:
                picture[:, index] += memory.others
            elif self.thresholds[index]:
                self.memories[index] = StepMemory(added[:, index].clone(), added_by_others[:, index].clone())
        return text, result

    def _by_request(self, rows: torch.Tensor) -> torch.Tensor:
        """View [rows, …] as [sequences, requests, …]."""
        by_request: torch.Tensor = rows.unflatten(0, (-1, len(self.memories)))
        return by_request

    def _unchanged(self, added: torch.Tensor) -> list[bool]:
        unchanged = [False] * len(self.memories)
        known = [(index, memory.first) for index, memory in enumerate(self.memories) if memory]
        if not known:
            return unchanged
        # one read from the device for all requests; the sequence of a request that changed most decides
        changes = torch.stack([_change(added[:, index], first).max() for index, first in known]).tolist()
        for (index, _), change in zip(known, changes, strict=True):
            unchanged[index] = change < self.thresholds[index]
        return unchanged


def _change(now: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
    """Return the mean absolute change [sequences], relative to what was there before."""
    return (now - before).abs().mean((1, 2), dtype=torch.float32) / before.abs().mean((1, 2), dtype=torch.float32)


def _run(
    blocks: Sequence[nn.Module],
    only: Only,
    rows: list[int],
    text: torch.Tensor,
    image: torch.Tensor,
    shared: dict[str, Any],
) -> torch.Tensor:
    """Run some rows through these blocks, and return their image stream."""
    count = len(image)
    some = shared | {
        # models that see their condition at another time have the times of all rows twice
        "temb": shared["temb"].unflatten(0, (-1, count))[:, rows].flatten(0, 1),
        "joint_attention_kwargs": {
            name: [values[row] for row in rows] for name, values in shared["joint_attention_kwargs"].items()
        },
        "modulate_index": None if shared["modulate_index"] is None else shared["modulate_index"][rows],
    }
    text, image = text[rows], image[rows]
    with only(rows):
        for block in blocks:
            text, image = block(hidden_states=image, encoder_hidden_states=text, **some)
    return image
