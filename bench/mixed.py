"""Measures a mixed load on three servers of the same model: `python -m bench.mixed [--quick] [--seconds N]`.

Customers order pictures of three sizes and five numbers of steps, with and without guidance, with one of three adapters
or none (the servers are in `bench/mixed_servers.py`). Each server has a process of its own on one core, and serves the
same seeded orders, one server after another:

    all at once        everything waits from the start: throughput. There are as many orders as diffusers serves in N
                       seconds, which also measures its capacity
    80 %, 120 %        Poisson arrivals of the same orders at that share of diffusers' capacity: latency from arrival to
                       picture

The pictures of the first load are compared with diffusers', pixel by pixel, so that equal work is timed.
"""

import json
import multiprocessing
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from bench import mixed_servers
from bench.adapters import ATTENTION, factors
from bench.engine import GUIDANCE, PROMPTS
from bench.mixed_servers import Order, Served
from inference.adapters.layers import Layers
from inference.models import catalog, qwen_image

SIDES = (128, 192, 256)
STEPS = (8, 12, 20, 30, 40)
ADAPTERS, RANK = ("first", "second", "third"), 16
LOADS = (0.8, 1.2)
SECONDS = 60.0
MOST = 10_000
SEED = 2026

Figures = dict[str, Any]
Moments = NDArray[np.float64]


def main(quick: bool = False, seconds: float | None = None) -> Figures:
    """Measure and return the figures by load and server, JSON-ready; `seconds` is how long diffusers runs."""
    random = np.random.default_rng(SEED)
    with tempfile.TemporaryDirectory() as folder:
        orders = draw(random, make_adapters(Path(folder)))
        servers = {name: start(name, Path(folder)) for name in mixed_servers.SERVERS}
        try:
            return measure(servers, orders, random, seconds or (3.0 if quick else SECONDS))
        finally:
            for server in servers.values():
                server.shutdown()


def make_adapters(folder: Path) -> list[str]:
    """Write random adapters, small enough that pictures stay recognisable; return their files' names."""
    torch.manual_seed(SEED)
    layers = Layers(qwen_image.load(catalog.card(), torch.device("cpu")).transformer)
    names = [f"{name}.safetensors" for name in ADAPTERS]
    for name in names:
        save_file(dict(factors(layers, ATTENTION, RANK)), folder / name)
    return names


def draw(random: np.random.Generator, adapters: list[str]) -> list[Order]:
    kinds = list(product(SIDES, STEPS, (GUIDANCE, 1.0), (*adapters, None)))
    return [
        Order(PROMPTS[random.integers(len(PROMPTS))], *kinds[random.integers(len(kinds))], seed) for seed in range(MOST)
    ]


def start(name: str, folder: Path) -> ProcessPoolExecutor:
    """Start one server, alone in its process."""
    return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), mixed_servers.prepare, (name, folder))


def measure(
    servers: dict[str, ProcessPoolExecutor], orders: list[Order], random: np.random.Generator, seconds: float
) -> Figures:
    plain, *others = servers
    for server in servers.values():  # each server is warm before any is timed
        server.submit(mixed_servers.warm_up).result()
    first = serve(servers[plain], orders, np.zeros(len(orders)), seconds)
    orders = orders[: len(first.pictures)]
    at_once = {plain: first} | {name: serve(servers[name], orders, np.zeros(len(orders))) for name in others}
    capacity = len(orders) / first.seconds
    unit = np.sort(random.uniform(0, len(orders), len(orders)))
    loads = {"all at once": at_once} | {
        f"{load:.0%}": {name: serve(server, orders, unit / (load * capacity)) for name, server in servers.items()}
        for load in LOADS
    }
    return {
        "orders": len(orders),
        "diffusers' capacity, pictures/s": round(capacity, 3),
        "by load": {load: table(served) for load, served in loads.items()},
        "difference from diffusers, of 255": {
            name: differences(first.pictures, at_once[name].pictures) for name in others
        },
        "goals": {
            "throughput × Triton's manner (1.3)": ratio(at_once, "kiln", "triton"),
            "throughput × diffusers": ratio(at_once, "kiln", "diffusers"),
            **{f"p50 of diffusers at {load:.0%} (0.5)": median_ratio(loads[f"{load:.0%}"]) for load in LOADS},
        },
    }


def serve(server: ProcessPoolExecutor, orders: list[Order], arrivals: Moments, limit: float = float("inf")) -> Served:
    return server.submit(mixed_servers.serve, orders, arrivals.tolist(), limit).result()


def table(served: dict[str, Served]) -> dict[str, Figures]:
    """Return one row for each server; a picture's latency counts from its order's arrival."""
    return {
        name: {
            "pictures/s": round(len(run.latencies) / run.seconds, 3),
            "p50 s": round(float(np.percentile(run.latencies, 50)), 3),
            "p99 s": round(float(np.percentile(run.latencies, 99)), 3),
            "rows a forward": round(run.rows, 2),
        }
        for name, run in served.items()
    }


def differences(ours: list[NDArray[np.uint8]], theirs: list[NDArray[np.uint8]]) -> Figures:
    worst = [int(np.abs(one.astype(int) - other).max()) for one, other in zip(ours, theirs, strict=True)]
    return {"largest": max(worst), "pictures over 2": sum(each > 2 for each in worst)}


def ratio(served: dict[str, Served], one: str, other: str) -> float:
    return round(served[other].seconds / served[one].seconds, 3)


def median_ratio(served: dict[str, Served]) -> float:
    return round(float(np.median(served["kiln"].latencies) / np.median(served["diffusers"].latencies)), 3)


if __name__ == "__main__":
    asked = float(sys.argv[sys.argv.index("--seconds") + 1]) if "--seconds" in sys.argv else None
    print(json.dumps(main("--quick" in sys.argv, asked), indent=2, ensure_ascii=False))
