"""Measures what adapters cost: `python -m bench.adapters [--quick]`.

Forwards of eight guided requests, 128 by 128 pixels, on one thread: without adapters, and with adapters from files,
each request with its own. They take turns in one process, one forward each; the ratio of neighbours in time is given as
the median over the rounds, with quartiles:

    attention   the four layers of a block that diffusers' training scripts change: to_q, to_k, to_v, to_out
    everything  every linear layer

Then the same eight requests with eight, four or two adapters between them, in one forward and in one forward for each
adapter: the speed-up of mixing them.
"""

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from bench.engine import PROMPTS, SIDE, spread
from inference.adapters.bank import Bank
from inference.adapters.layers import Layers
from inference.adapters.weights import Row
from inference.backends.pytorch import TorchBackend
from inference.models import catalog, qwen_image

ROWS = 8
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
# layers, rank, and how many of the eight have an adapter
CASES = {
    "attention · rank 16": (ATTENTION, 16, ROWS),
    "attention · rank 16 · one row of eight": (ATTENTION, 16, 1),
    "attention · rank 64": (ATTENTION, 64, ROWS),
    "everything · rank 16": ("", 16, ROWS),
    "everything · rank 64": ("", 64, ROWS),
}
SPLIT_AMONG = (8, 4, 2)


def main(quick: bool = False) -> dict[str, Any]:
    """Measure and return the figures by case, JSON-ready."""
    torch.set_num_threads(1)
    model = qwen_image.load(catalog.card(), torch.device("cpu"))
    backend = TorchBackend(model.transformer)
    bank = Bank(backend.layers, 2**30)
    with tempfile.TemporaryDirectory() as folder:
        rows = {name: load_rows(bank, Path(folder, name), backend.layers, *case) for name, case in CASES.items()}
    batches = {"none": [[()] * ROWS], **{name: [each] for name, each in rows.items()}}
    for count in SPLIT_AMONG:
        groups = [[row] * (ROWS // count) for row in next(iter(rows.values()))[:count]]
        batches |= {f"{count} together": [[row for group in groups for row in group]], f"{count} apart": groups}
    times = measure(model, backend, batches, 3 if quick else 21)
    bank.close()
    return {
        "forward without, ms": 1000 * statistics.median(times["none"]),
        "with adapters": {name: compared("× none", times[name], times["none"]) for name in CASES},
        "split by adapter": {
            f"{count} adapters": compared("× together", times[f"{count} apart"], times[f"{count} together"])
            for count in SPLIT_AMONG
        },
    }


def compared(name: str, ones: list[float], others: list[float]) -> dict[str, float]:
    return spread(name, [one / other for one, other in zip(ones, others, strict=True)])


def load_rows(
    bank: Bank, folder: Path, layers: Layers, ends: tuple[str, ...] | str, rank: int, count: int
) -> list[Row]:
    """Return the rows of eight requests, `count` of them each with its own random adapter."""
    folder.mkdir()
    loans = []
    for index in range(count):
        path = folder / f"{index}.safetensors"
        save_file(dict(factors(layers, ends, rank)), path)
        loans.append(bank.acquire([(path, 0.8)]))
    for loan in loans:
        loan.ready.result()
    return [loan.row for loan in loans] + [()] * (ROWS - count)


def factors(layers: Layers, ends: tuple[str, ...] | str, rank: int) -> Iterator[tuple[str, torch.Tensor]]:
    for name, (inputs, outputs) in layers.sizes.items():
        if name.endswith(ends):
            yield f"transformer.{name}.lora_A.weight", 0.02 * torch.randn(rank, inputs)
            yield f"transformer.{name}.lora_B.weight", 0.02 * torch.randn(outputs, rank)


@torch.inference_mode()
def measure(
    model: qwen_image.QwenImage, backend: TorchBackend, cases: dict[str, list[list[Row]]], rounds: int
) -> dict[str, list[float]]:
    """Return seconds by case, round by round; a case is the rows of each of its forwards."""
    times: dict[str, list[float]] = {name: [] for name in cases}
    inputs = {len(rows): ready(model, len(rows)) for batches in cases.values() for rows in batches}
    for index in range(rounds + 1):
        for name, batches in cases.items():
            seconds = 0.0
            for rows in batches:
                # a batch's first step plans its rows, so only later ones are measured
                backend.velocity(*inputs[len(rows)], rows * 2)
                begun = time.perf_counter()
                backend.velocity(*inputs[len(rows)], rows * 2)
                seconds += time.perf_counter() - begun
            if index:  # the first round warms up
                times[name].append(seconds)
    return times


def ready(model: qwen_image.QwenImage, count: int) -> tuple[Any, ...]:
    """Return a forward's latents, sigmas, texts and grids for so many guided requests: twice as many rows."""
    grid = (SIDE // 16, SIDE // 16)
    texts = [model.encode(PROMPTS[row % len(PROMPTS)]) for row in range(count)] + [model.encode("")] * count
    latents, sigmas = torch.randn(2 * count, grid[0] * grid[1], model.channels), torch.full((2 * count,), 0.5)
    return latents, sigmas, texts, [grid]


if __name__ == "__main__":
    print(json.dumps(main("--quick" in sys.argv), indent=2))
