"""The simulations of a report, all of an H200 except the first:

    agreement      one machine: the engine with the house model beside its simulation, with a table measured just before
    fleet          the largest run: requests at a constant rate over all GPUs
    by load        50 GPUs: the least loaded first, or first those where a request finds batch-mates
    rules          a day, without and with bursts: what each autoscaling rule costs and whether it keeps the p99
    latent cache   50 GPUs at a high load, by the share of requests with a hit and the share of steps that it saves

A day has a quarter of the largest run's requests, the other runs a twentieth.
"""

import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path
from typing import Any

from bench.simulate import agreement, plots, runs

REQUESTS, GPUS, PRICE = 1_000_000, 2000, 3.5
LOADS = (0.3, 0.5, 0.7, 0.9, 1.1, 1.3)
ROUTERS = {"least loaded": False, "mates first": True}
CACHES = ((0.0, 0.0), (0.2, 0.2), (0.2, 0.4), (0.5, 0.2), (0.5, 0.4))
IMAGES = Path(__file__).resolve().parents[2] / "docs" / "images"

Figures = dict[str, Any]
Runs = dict[str, Future[Figures]]


def main(quick: bool = False, requests: int | None = None, gpus: int | None = None, price: float = PRICE) -> Figures:
    """Simulate and return the figures, JSON-ready; unless `quick`, also draw the plots.

    `requests` and `gpus` are those of the largest run, `price` is in dollars per GPU-hour.
    """
    count = requests or (4000 if quick else REQUESTS)
    gpus = gpus or (20 if quick else GPUS)
    agreed = agreement.run(12 if quick else 60)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(len(os.sched_getaffinity(0)), context) as processes:

        def begin(run: Callable[..., Figures], requests: int, *arguments: Any) -> Future[Figures]:
            return processes.submit(run, requests, price, *arguments)

        fleet = begin(runs.fleet, count, gpus)
        days = {day: {rule: begin(runs.day, count // 4, day, rule) for rule in runs.RULES} for day in runs.DAYS}
        loads = {
            name: {f"{load:.0%}": begin(runs.load, count // 20, load, affinity) for load in LOADS}
            for name, affinity in ROUTERS.items()
        }
        caches = {
            f"{found:.0%} find {saved:.0%}": begin(runs.cache, count // 20, found, saved) for found, saved in CACHES
        }
        figures = {
            "a GPU's price, $ an hour": price,
            "agreement with the engine": agreed,
            "fleet": fleet.result(),
            "by load": {name: results(by_load) for name, by_load in loads.items()},
            "rules": {day: results(by_rule) for day, by_rule in days.items()},
            "latent cache": results(caches),
        }
    if not quick:
        plots.draw(figures, IMAGES)
    return figures


def results(begun: Runs) -> dict[str, Figures]:
    return {name: run.result() for name, run in begun.items()}
