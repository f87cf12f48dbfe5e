"""The backend that runs a plan: graphs that were built ahead, in ONNX Runtime or TensorRT.

Sizes that the plan has no room for are run by torch, which is said once for each. Everything that depends on rows is
decided here, and is the same whatever runs the graphs: padding, positions, adapters, the step cache, and batches with
more rows than the plan has room for.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import lru_cache
from weakref import WeakKeyDictionary

import torch

from inference.adapters.layers import Plan as Rows
from inference.adapters.layers import bucket
from inference.adapters.weights import Row
from inference.backends.pytorch import TorchBackend, pad
from inference.plans import graph
from inference.plans.executor import Executor
from inference.plans.graph import FIRST, LAST, OTHERS, POSITIONS, Kind
from inference.plans.profiles import Profile
from inference.state import Grid
from inference.step_cache import StepCache

log = logging.getLogger(__name__)

Tensors = dict[str, torch.Tensor]


class PlannedBackend:
    """A `Backend` over an executor, with torch for what the plan has no room for."""

    def __init__(self, executor: Executor, torch_backend: TorchBackend) -> None:
        self.name = executor.name
        self.layers = torch_backend.layers
        self._executor = executor
        self._torch = torch_backend
        self._kinds = graph.kinds(self.layers.sizes)
        self._conditioned = bool(torch_backend.transformer.config.zero_cond_t)
        self._positions = lru_cache(maxsize=64)(self._compute_positions)
        self._factors: WeakKeyDictionary[Rows, dict[str, Tensors]] = WeakKeyDictionary()
        self._told: set[tuple[int, int, int]] = set()

    def velocity(
        self,
        latents: torch.Tensor,
        sigmas: torch.Tensor,
        texts: Sequence[torch.Tensor],
        grids: Sequence[Grid],
        adapters: Sequence[Row],
        cache: StepCache | None = None,
    ) -> torch.Tensor:
        embedding = pad(texts)
        rank = bucket(max(sum(adapter.rank for adapter, _ in row) for row in adapters))
        profile = self._profile(latents.shape[1], embedding.shape[1], rank)
        if profile is None:
            return self._torch.velocity(latents, sigmas, texts, grids, adapters, cache)
        dtype, (height, width) = self._executor.dtype, grids[0]
        lengths = torch.tensor([len(text) for text in texts], device=latents.device)
        forward = Forward(self._executor, profile, self._stacked(adapters, rank, dtype))
        positions = self._positions(tuple(grids), embedding.shape[1], latents.device)
        padding = torch.arange(embedding.shape[1], device=latents.device) < lengths[:, None]
        shared = {**positions, "text_mask": padding.float()}
        if self._conditioned:
            seen_later = torch.arange(latents.shape[1], device=latents.device) >= height * width
            shared["is_condition"] = seen_later.int().expand(len(latents), -1)
        # rounded as in diffusers' pipelines
        time = (1000 * sigmas).to(dtype) / 1000
        every = list(range(len(latents)))
        first = forward.run(
            FIRST, every, {"latents": latents.to(dtype), "time": time, "embedding": embedding.to(dtype), **shared}
        )
        before, modulation = first.pop("before"), first["modulation"]

        def others(rows: list[int]) -> torch.Tensor:
            return forward.run(OTHERS, rows, {**first, **shared})["image"]

        image = cache.run(before, first["after_first"], height * width, others) if cache else others(every)
        image = image[:, : height * width]
        return forward.run(LAST, every, {"image": image, "modulation": modulation})["velocity"].float()

    def synchronize(self) -> None:
        self._executor.synchronize()

    def end(self) -> None:
        self._torch.end()

    def _profile(self, tokens: int, text: int, rank: int) -> Profile | None:
        for profile in self._executor.profiles:
            if profile.serves(tokens=tokens, text=text, rank=rank):
                return profile
        if (size := (tokens, text, rank)) not in self._told:
            self._told.add(size)
            log.warning(
                "the plan has no room for %d tokens, %d of text and adapters of rank %d: torch runs these", *size
            )
        return None

    def _compute_positions(self, grids: tuple[Grid, ...], text: int, device: torch.device) -> Tensors:
        shapes = [[(1, *grid) for grid in grids]]
        angles = self._torch.transformer.pos_embed(shapes, max_txt_seq_len=text, device=device)[:, 0]
        boundary = len(angles) - text
        return {
            f"{stream}_{name}": part.contiguous()
            for stream, rows in (("image", angles[:boundary]), ("text", angles[boundary:]))
            for name, part in (("cosine", rows.real), ("sine", rows.imag))
        }

    def _stacked(self, adapters: Sequence[Row], rank: int, dtype: torch.dtype) -> dict[str, Tensors]:
        """Return the factors of all rows by part and input; those of the last adapters are kept."""
        with self.layers.given(adapters):
            plan = self.layers.plan
        if plan is None:
            return {
                part: _empty(kinds, len(adapters), rank, dtype, self.layers.device)
                for part, kinds in self._kinds.items()
            }
        if plan not in self._factors:
            self._factors[plan] = self._stack(plan.rows, rank, dtype)
        return self._factors[plan]

    def _stack(self, rows: Sequence[Row], rank: int, dtype: torch.dtype) -> dict[str, Tensors]:
        found = {part: _empty(kinds, len(rows), rank, dtype, self.layers.device) for part, kinds in self._kinds.items()}
        by_name = {(part, kind.name): kind for part, kinds in self._kinds.items() for kind in kinds}
        for index, row in enumerate(rows):
            filled: dict[str, int] = {}
            for adapter, scale in row:
                for layer, factors in adapter.factors.items():
                    part, name, place = graph.layout(layer)
                    kind, start = by_name[part, name], filled.get(layer, 0)
                    filled[layer] = end = start + len(factors.down)
                    found[part][kind.down][place, index, start:end] = factors.down
                    found[part][kind.up][place, index, start:end] = factors.up * (factors.scale * scale)
        return found


class Forward:
    """One forward: runs a graph for some of its rows, as many at a time as the profile has room for."""

    def __init__(self, executor: Executor, profile: Profile, factors: Mapping[str, Tensors]) -> None:
        self._executor = executor
        self._profile = profile
        self._factors = factors

    def run(self, part: str, rows: list[int], inputs: Mapping[str, torch.Tensor]) -> Tensors:
        """Run a graph; inputs are of all rows of the forward, outputs of these."""
        most = self._profile.rows.most
        pieces = [self._run(part, rows[start : start + most], inputs) for start in range(0, len(rows), most)]
        return {name: torch.cat([piece[name] for piece in pieces]) for name in pieces[0]}

    def _run(self, part: str, rows: list[int], inputs: Mapping[str, torch.Tensor]) -> Tensors:
        given = {name: tensor if name in POSITIONS else _selected(tensor, 0, rows) for name, tensor in inputs.items()}
        given |= {name: _selected(tensor, 1, rows) for name, tensor in self._factors[part].items()}
        return self._executor.run(part, given, self._profile)


def _selected(tensor: torch.Tensor, axis: int, rows: list[int]) -> torch.Tensor:
    if rows == list(range(tensor.shape[axis])):
        return tensor.contiguous()
    return tensor.index_select(axis, torch.tensor(rows, device=tensor.device))


def _empty(kinds: Sequence[Kind], rows: int, rank: int, dtype: torch.dtype, device: torch.device) -> Tensors:
    return {
        name: torch.zeros(kind.blocks, rows, rank, size, dtype=dtype, device=device)
        for kind in kinds
        for name, size in ((kind.down, kind.inputs), (kind.up, kind.outputs))
    }
