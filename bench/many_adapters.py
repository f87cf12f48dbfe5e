"""Measures one worker with far more adapters than fit: `python -m bench.many_adapters [--quick]`.

500 adapters, each in a file of its own, are asked for by Zipf's law, as customers ask for styles: the second most
popular half as often as the first, and so on. The engine's bank holds 50 of them. Eight requests are always under way,
128 by 128 pixels, 20 guided steps; rounds with and without adapters take turns on the same engine:

    hits          requests whose adapter was on the device when they came
    of perfect    the same share if the bank held the most popular ones from the start, which no bank can know
    a miss waits  until its adapter was read and is on the device, while others are drawn
    throughput    pictures a second, beside the same requests without adapters; the median ratio of neighbouring rounds
"""

import json
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from bench.adapters import ATTENTION, factors
from bench.engine import PROMPTS, SIDE, spread
from inference.adapters import files
from inference.adapters.layers import Layers
from inference.engine import Engine
from inference.models import catalog, qwen_image
from inference.request import Request

COUNT, FIT, RANK = 500, 50, 16
TOGETHER, STEPS, GUIDANCE = 8, 20, 4.0
SEED = 2026


class Waits:
    """How long each request waited for its adapter; 0 for one whose adapter was there."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._lock = threading.Lock()

    def note(self, request: Request) -> None:
        """Take a request that was just submitted."""
        loan, began = request.ticket.loan, time.perf_counter()
        assert loan is not None
        if loan.ready.done():
            self._add(0.0)
        else:
            loan.ready.add_done_callback(lambda _: self._add(time.perf_counter() - began))

    def _add(self, seconds: float) -> None:
        with self._lock:
            self.seconds.append(seconds)


def main(quick: bool = False) -> dict[str, Any]:
    """Measure and return the figures, JSON-ready."""
    random = np.random.default_rng(SEED)
    rounds, each = (2, 16) if quick else (10, 120)
    with tempfile.TemporaryDirectory() as folder:
        paths, size = make(Path(folder))
        engine = Engine(catalog.card(), max_adapter_bytes=FIT * size)
        engine.start()
        try:
            popular = zipf(random)
            for index in popular[: 4 * FIT]:  # as a worker that has run for a while
                run(engine, [paths[index]], Waits(), steps=1)
            ratios, waits = [], Waits()
            for number in range(rounds):
                chosen = [paths[index] for index in popular[4 * FIT + number * each :][:each]]
                plain = run(engine, [None] * each)
                ratios.append(plain / run(engine, chosen, waits))
        finally:
            engine.stop()
    return figures(ratios, waits.seconds)


def figures(ratios: Sequence[float], waits: Sequence[float]) -> dict[str, Any]:
    missed = [1000 * seconds for seconds in waits if seconds]
    share = 1 / np.arange(1, COUNT + 1)
    return {
        "hits": 1 - len(missed) / len(waits),
        "of perfect": float(share[:FIT].sum() / share.sum()),
        "a miss waits, ms": {
            "median": statistics.median(missed) if missed else 0.0,
            "99 %": float(np.percentile(missed, 99)) if missed else 0.0,
        },
        "throughput": spread("× without", ratios),
    }


def make(folder: Path) -> tuple[list[Path], int]:
    """Write the adapters, random changes of the layers that training scripts change; and return how large one is."""
    model = qwen_image.load(catalog.card(), torch.device("cpu"))
    layers = Layers(model.transformer)
    paths = [folder / f"{index}.safetensors" for index in range(COUNT)]
    for path in paths:
        save_file({name: value / 10 for name, value in factors(layers, ATTENTION, RANK)}, path)
    return paths, files.read(paths[0], layers.sizes, torch.float32).nbytes


def zipf(random: np.random.Generator) -> list[int]:
    share = 1 / np.arange(1, COUNT + 1)
    return [int(index) for index in random.choice(COUNT, 10_000, p=share / share.sum())]


def run(engine: Engine, adapters: Sequence[Path | None], waits: Waits | None = None, steps: int = STEPS) -> float:
    """Draw a picture with each adapter, TOGETHER at a time; return how many seconds that took."""

    def draw(number: int, path: Path | None) -> None:
        request = Request(
            PROMPTS[number % len(PROMPTS)],
            width=SIDE,
            height=SIDE,
            steps=steps,
            guidance_scale=GUIDANCE,
            seed=number,
            adapters=((str(path), 0.5),) if path else (),
        )
        future = engine.submit(request)
        if waits and path:
            waits.note(request)
        future.result()

    began = time.perf_counter()
    with ThreadPoolExecutor(TOGETHER) as pool:
        list(pool.map(draw, range(len(adapters)), adapters))
    return time.perf_counter() - began


if __name__ == "__main__":
    print(json.dumps(main("--quick" in sys.argv), indent=2))
