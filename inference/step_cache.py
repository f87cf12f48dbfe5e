"""Spares most of a step where it would change little: the first block runs for every request, and where what it adds
to the picture has hardly changed since all blocks last ran, what the others added then is added again.

The first-block cache of ParaAttention and diffusers, after TeaCache (Liu et al. 2024), here decided request by
request inside a batch: those that reuse leave the forward after the first block, the rest go on without them.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn

from inference.state import StepMemory

# runs some rows of a forward, each with its own adapters
Only = Callable[[Sequence[int]], AbstractContextManager[None]]


class StepCache:
    """Of one forward. Before it: each request's threshold and memory; after it: the memories to keep, and which were
    reused. A threshold is the relative change below which a request reuses; at 0 it never does."""

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
        """All blocks as one: text and image streams [rows, tokens, width] out, as a block of diffusers returns them.

        A request's sequences lie as many rows apart as there are requests. `tokens` are those of the picture that is
        made; what becomes of the condition's is not needed afterwards.
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
        """[rows, …] → [sequences, requests, …], the same memory."""
        by_request: torch.Tensor = rows.unflatten(0, (-1, len(self.memories)))
        return by_request

    def _unchanged(self, added: torch.Tensor) -> list[bool]:
        unchanged = [False] * len(self.memories)
        known = [(index, memory.first) for index, memory in enumerate(self.memories) if memory]
        if not known:
            return unchanged
        # one look at the device for all of them; of a request's sequences the one that changed most decides
        changes = torch.stack([_change(added[:, index], first).max() for index, first in known]).tolist()
        for (index, _), change in zip(known, changes, strict=True):
            unchanged[index] = change < self.thresholds[index]
        return unchanged


def _change(now: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
    """Mean absolute change [sequences], as a share of what was there before."""
    return (now - before).abs().mean((1, 2), dtype=torch.float32) / before.abs().mean((1, 2), dtype=torch.float32)


def _run(
    blocks: Sequence[nn.Module],
    only: Only,
    rows: list[int],
    text: torch.Tensor,
    image: torch.Tensor,
    shared: dict[str, Any],
) -> torch.Tensor:
    """The image stream of some rows after these blocks."""
    count = len(image)
    some = shared | {
        # a model that sees its condition at another time has the times of all rows twice
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
