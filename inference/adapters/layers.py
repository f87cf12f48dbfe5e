"""Linear layers that give each row of a forward its own adapters: y[row] += s·(x[row] Aᵀ)Bᵀ, with the row's A, B, s.

Neighbouring rows in one rank bucket share two batched products (Punica, Chen et al. 2023; S-LoRA, Sheng et al. 2023).
Their factors are gathered anew for each layer of each forward, which costs little beside the products, and no memory. A
rank is always padded with zeros to its bucket, so a row's numbers do not depend on its neighbours. Rows without
adapters are left out, and a forward in which no row has one runs the plain layers.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import groupby
from typing import NamedTuple

import torch
from torch import nn

from inference.adapters.weights import Factors, Row
from inference.shares import Share

SMALLEST_BUCKET = 16
WHOLE = slice(None)


class Run(NamedTuple):
    """Neighbouring rows in one rank bucket, with their factors row by row; scales [rows, 1, rank]."""

    rows: slice
    downs: list[torch.Tensor]
    ups: list[torch.Tensor]
    scales: torch.Tensor


class Plan:
    """Which rows of a forward have which adapters, worked out for each layer when it first asks."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = tuple(rows)
        self._runs: dict[str, list[Run]] = {}
        self._zeros: dict[tuple[int, int], torch.Tensor] = {}
        self._scales: dict[tuple[tuple[float, ...], ...], torch.Tensor] = {}

    def runs(self, layer: str) -> list[Run]:
        """Return the layer's rows with adapters as runs; there are few if rows of similar rank are neighbours."""
        if layer not in self._runs:
            self._runs[layer] = list(self._group(layer))
        return self._runs[layer]

    def _group(self, layer: str) -> Iterator[Run]:
        rows = [
            [(adapter.factors[layer], scale) for adapter, scale in row if layer in adapter.factors] for row in self.rows
        ]
        start = 0
        for rank, group in groupby(rows, key=lambda row: bucket(sum(len(factors.down) for factors, _ in row))):
            neighbours = list(group)
            if rank:
                yield self._run(slice(start, start + len(neighbours)), rank, neighbours)
            start += len(neighbours)

    def _run(self, rows: slice, rank: int, neighbours: list[list[tuple[Factors, float]]]) -> Run:
        downs, ups, scales = [], [], []
        for row in neighbours:
            downs += [factors.down for factors, _ in row]
            ups += [factors.up for factors, _ in row]
            scale = [factors.scale * scale for factors, scale in row for _ in factors.down]
            if missing := rank - len(scale):
                downs.append(self._padding(missing, downs[-1]))
                ups.append(self._padding(missing, ups[-1]))
            scales.append((*scale, *[0.0] * missing))
        return Run(rows, downs, ups, self._scale(tuple(scales), downs[0].device))

    def _padding(self, rank: int, like: torch.Tensor) -> torch.Tensor:
        key = (rank, like.shape[1])
        if key not in self._zeros:
            self._zeros[key] = like.new_zeros(key)
        return self._zeros[key]

    def _scale(self, scales: tuple[tuple[float, ...], ...], device: torch.device) -> torch.Tensor:
        # most layers of a batch have the same scales, so one small copy to the device serves them all
        if scales not in self._scales:
            self._scales[scales] = torch.tensor(scales, device=device)[:, None]
        return self._scales[scales]


class AdaptedLinear(nn.Linear):
    """A linear layer of the transformer with adapters by row; its weights and their names are unchanged."""

    name: str
    layers: "Layers"
    share: Share | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the layer to x [rows, tokens, in features], or to [n · rows, in features] with rows the faster axis."""
        if self.share is None:
            y = super().forward(x)
            self._adapt(x, y, WHOLE, WHOLE)
            return y
        y = self.share.product(x, self)
        self._adapt(x, y, self.share.taken, self.share.given)
        return self.share.complete(y, self)

    def _adapt(self, x: torch.Tensor, y: torch.Tensor, taken: slice, given: slice) -> None:
        """Add to y what the rows' adapters do, of these of the whole layer's inputs and outputs."""
        plan = self.layers.plan
        if plan is None:
            return
        inputs, outputs = (x, y) if x.ndim == 3 else (_by_row(x, len(plan.rows)), _by_row(y, len(plan.rows)))
        for rows, downs, ups, scales in plan.runs(self.name):
            count, _, rank = scales.shape
            down = torch.cat(downs).view(count, rank, -1)[..., taken]
            up = torch.cat(ups).view(count, rank, -1)[..., given]
            # the scales have 32 bits, the rest the model's type
            inner = torch.bmm(inputs[rows], down.transpose(1, 2)).mul_(scales)
            outputs[rows].baddbmm_(inner, up)


class Layers:
    """The linear layers of one transformer, by name. One forward at a time."""

    def __init__(self, transformer: nn.Module) -> None:
        """Turn every linear layer into an AdaptedLinear, in place."""
        self.plan: Plan | None = None
        self._last: Plan | None = None
        found = {name: layer for name, layer in transformer.named_modules() if type(layer) is nn.Linear}
        for name, layer in found.items():
            layer.__class__ = AdaptedLinear
            layer.__dict__.update(name=name, layers=self)
        self.sizes: Mapping[str, tuple[int, int]] = {
            name: (layer.in_features, layer.out_features) for name, layer in found.items()
        }
        weight = next(iter(found.values())).weight
        self.device, self.dtype = weight.device, weight.dtype

    @contextmanager
    def given(self, rows: Sequence[Row]) -> Iterator[None]:
        """Run the forwards inside with these adapters, one entry for each of their rows."""
        before = self.plan
        self.plan = self._planned(rows) if any(rows) else None
        try:
            yield
        finally:
            self.plan = before

    def only(self, rows: Sequence[int]) -> AbstractContextManager[None]:
        """Run a part of the forward with only these of its rows; use inside `given`."""
        return self.given([self.plan.rows[row] for row in rows] if self.plan else ())

    def _planned(self, rows: Sequence[Row]) -> Plan:
        plan = self._last  # `forget` may clear it at any moment
        if plan is None or plan.rows != tuple(rows):
            self._last = plan = Plan(rows)
        return plan

    def forget(self) -> None:
        """Drop the last forward's adapters, so that they can be freed."""
        self._last = None


def bucket(rank: int) -> int:
    """Return the rank that a rank is padded to: the next power of two, at least 16; 0 stays 0."""
    return max(SMALLEST_BUCKET, 1 << (rank - 1).bit_length()) if rank else 0


def order(row: Row) -> int:
    """Return a sort key for rows that makes for few runs."""
    return bucket(sum(adapter.rank for adapter, _ in row))


def _by_row(x: torch.Tensor, rows: int) -> torch.Tensor:
    """View [n · rows, features] as [rows, n, features]."""
    return x.view(-1, rows, x.shape[-1]).transpose(0, 1)
