"""Skips most of a step that would change little: the first block runs for every request, and if what it adds to the
picture has hardly changed since all blocks last ran, what the others added then is added again.

The first-block cache of ParaAttention and diffusers, after TeaCache (Liu et al. 2024), but decided for each request of
a batch: those that reuse leave the forward after the first block, and the rest go on without them.
"""

from collections.abc import Callable, Sequence

import torch

from inference.state import StepMemory


class StepCache:
    """The step cache of one forward: each request's threshold and memory; afterwards the memories to keep, and which
    requests reused theirs. A threshold is the relative change below which a request reuses; at 0 it never does."""

    def __init__(self, thresholds: Sequence[float], memories: Sequence[StepMemory | None]) -> None:
        self.thresholds = thresholds
        self.memories = list(memories)
        self.reused = [False] * len(memories)

    def run(
        self, before: torch.Tensor, after: torch.Tensor, tokens: int, others: Callable[[list[int]], torch.Tensor]
    ) -> torch.Tensor:
        """Return the picture's stream [rows, tokens, width] after all blocks, from those before and after the first.

        `others` runs all other blocks for some rows. A request's sequences are as many rows apart as there are
        requests. `tokens` counts those of the picture being made; the condition's tokens behind them are not needed
        afterwards.
        """
        added = self._by_request((after - before)[:, :tokens])
        self.reused = self._unchanged(added)
        rows = [row for row in range(len(after)) if not self.reused[row % len(self.reused)]]
        result = after.clone()
        if rows:
            result[rows] = others(rows)
        added_by_others = self._by_request((result - after)[:, :tokens])
        picture = self._by_request(result[:, :tokens])
        for index, reused in enumerate(self.reused):
            memory = self.memories[index]
            if reused and memory:
                picture[:, index] += memory.others
            elif self.thresholds[index]:
                self.memories[index] = StepMemory(added[:, index].clone(), added_by_others[:, index].clone())
        return result

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
