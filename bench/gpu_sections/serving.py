"""The engine on a model of the real size: its step beside bare forwards, many kinds of orders at once, adapters row by
row, and the step cache."""

import random
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import torch

from bench.adapters import ATTENTION
from bench.gpu_sections.forwards import forward, raw
from bench.gpu_sections.rig import Rig, Row, load, middle, ratios, request
from inference import calibration
from inference.adapters.layers import Layers
from inference.adapters.weights import Adapter, Shape
from inference.engine import BatchReport, Engine
from inference.request import TILE, Request
from inference.step_cache import StepCache

RANKS = (16, 64)
ROWS = 8
SEED = 2026


class Watched:
    """An engine of the rig's model that notes when its steps ended."""

    def __init__(self, rig: Rig, **options: Any) -> None:
        self.engine = Engine(rig.card, load=load(rig), device=str(rig.device), on_batch=self._note, **options)
        self.steps: list[tuple[float, int]] = []

    def step_seconds(self, requests: list[Request]) -> list[float]:
        """Seconds from step to step, scheduling included, while all of the requests shared them."""
        self.steps = []
        for future in [self.engine.submit(each) for each in requests]:
            future.result()
        shared = [ended for ended, rows in self.steps if rows == len(requests)]
        return [after - before for before, after in pairwise(shared)]

    def _note(self, report: BatchReport) -> None:
        if report.phase == "denoise":
            self.steps.append((time.perf_counter(), report.rows))


def engine(rig: Rig) -> Iterator[Row]:
    """The time from step to step beside a forward of the backend and one of diffusers' transformer (raw); and the cap
    that the engine finds by itself."""
    small, large, most = rig.scale.small, rig.scale.large, rig.scale.batches[-1]
    backend, plain = rig.backend(), rig.share()
    for side, batch in ((small, 1), (small, most), (large, 1)):
        rig.empty()
        inputs = rig.inputs(side, batch)
        watched = Watched(rig, max_batch_tokens=2 * batch * inputs.latents.shape[1])
        acts = {"backend": forward(backend, inputs), "raw": lambda inputs=inputs: raw(plain, inputs)}
        steps, times = [], {name: [] for name in acts}
        with watched.engine as served, torch.inference_mode():
            for index in range(rig.scale.rounds + 1):
                took = watched.step_seconds([request(side, rig.scale.steps + 2, row) for row in range(batch)])
                bare = rig.seconds(acts, 1)
                if index:
                    steps.append(middle(took))
                    for name, (seconds,) in bare.items():
                        times[name].append(seconds)
            knee = served.step_times
        yield {
            "": f"{side}² · batch {batch}",
            "engine ms": round(1000 * middle(steps), 1),
            **{f"{name} ms": round(1000 * middle(each), 1) for name, each in times.items()},
            "of the backend": ratios(times["backend"], steps),
            "of raw": ratios(times["raw"], steps),
            **rig.peak_memory(),
        }
    yield {"": "cap that was calibrated", "tokens a forward": calibration.max_batch_tokens(rig.card, knee)}


def mixed(rig: Rig) -> Iterator[Row]:
    """Orders of three sizes, several numbers of steps, with and without guidance, from four accounts: all at once under
    the calibrated cap, for the first time; one after the other; all at once again."""
    choose = random.Random(SEED)
    small, large = rig.scale.small, rig.scale.large
    kinds = [
        {
            "side": choose.choice((small, (small + large) // 2 // TILE * TILE, large)),
            "steps": rig.scale.steps // 2 + choose.randrange(rig.scale.steps),
            "guidance_scale": choose.choice((4.0, 4.0, 1.0)),
            "account": choose.choice("abcd"),
        }
        for _ in range(4 * len(rig.scale.batches))
    ]

    def orders() -> list[Request]:
        return [request(seed=seed, **kind) for seed, kind in enumerate(kinds)]

    watched = Watched(rig)
    with watched.engine as served:
        rig.empty()
        first = _seconds(lambda: at_once(served, orders()))
        alone = _seconds(lambda: [served.submit(each).result() for each in orders()])
        watched.steps = []
        together = _seconds(lambda: at_once(served, orders()))
        yield {
            "": f"{len(kinds)} orders",
            "at once, first time s": round(first, 2),
            "one after the other s": round(alone, 2),
            "all at once s": round(together, 2),
            "× one after the other": round(alone / together, 3),
            "requests a step": round(sum(rows for _, rows in watched.steps) / len(watched.steps), 2),
            "cap, tokens a forward": served.max_batch_tokens,
            **rig.peak_memory(),
        }


def at_once(engine: Engine, orders: list[Request]) -> None:
    for future in [engine.submit(order) for order in orders]:
        future.result()


@torch.inference_mode()
def adapters(rig: Rig) -> Iterator[Row]:
    """Forwards of eight guided pictures, of which none, one, four or all have an adapter of their own."""
    backend = rig.backend()
    inputs = rig.inputs(rig.scale.small, ROWS)
    for rank in RANKS:
        rig.empty()
        made = [adapter(backend.layers, rank) for _ in range(ROWS)]
        acts = {}
        for count in (0, 1, 4, ROWS):
            rows = [((each, 0.8),) for each in made[:count]] + [()] * (ROWS - count)
            acts[count] = lambda rows=rows: backend.velocity(*inputs, rows * 2)
        times = rig.seconds(acts)
        for count in (1, 4, ROWS):
            yield {
                "": f"rank {rank} · {count} of {ROWS} rows",
                "without ms": round(1000 * middle(times[0]), 1),
                "with ms": round(1000 * middle(times[count]), 1),
                "× without": ratios(times[count], times[0]),
                **rig.peak_memory(),
            }


def adapter(layers: Layers, rank: int) -> Adapter:
    """Random factors for the layers that training scripts usually change."""
    shapes = {name: Shape(rank, inputs, outputs, 1.0) for name, (inputs, outputs) in layers.sizes.items() if ends(name)}
    size = sum(shape.size for shape in shapes.values())
    return Adapter(0.02 * torch.randn(size, device=layers.device, dtype=layers.dtype), shapes)


def ends(name: str) -> bool:
    return name.endswith(ATTENTION)


@torch.inference_mode()
def step_cache(rig: Rig) -> Iterator[Row]:
    """A forward with the cache: when nothing can be reused, when half of the rows can, and when all can."""
    backend = rig.backend()
    batch = max(2, rig.scale.batches[-1] // 2)
    inputs = rig.inputs(rig.scale.small, batch)
    rig.empty()
    first = StepCache([1e9] * batch, [None] * batch)
    backend.velocity(*inputs, [()] * inputs.rows, first)

    def cached(reusing: int) -> StepCache:
        # the forward that was kept saw the same, so any threshold lets it be used
        cache = StepCache([1e9] * reusing + [1e-9] * (batch - reusing), list(first.memories))
        cache.memories[reusing:] = [None] * (batch - reusing)
        backend.velocity(*inputs, [()] * inputs.rows, cache)
        assert sum(cache.reused) == reusing
        return cache

    counts = (0, batch // 2, batch)
    acts = {"plain": forward(backend, inputs)} | {count: lambda count=count: cached(count) for count in counts}
    times = rig.seconds(acts)
    for count in counts:
        yield {
            "": f"{count} of {batch} requests reuse",
            "plain ms": round(1000 * middle(times["plain"]), 1),
            "cached ms": round(1000 * middle(times[count]), 1),
            "× plain": ratios(times["plain"], times[count]),
            **rig.peak_memory(),
        }


def _seconds(act: Callable[[], object]) -> float:
    begun = time.perf_counter()
    act()
    return time.perf_counter() - begun
