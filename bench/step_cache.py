"""Measures what the step cache saves and what it loses: `python -m bench.step_cache [--quick]`.

Held-out captions of the house model, drawn in batches on one thread without the cache and with several thresholds; the
same captions, seeds and sizes each time. Seconds are processor time in denoising steps, so that other work on the
machine matters little.

    reused      share of all steps that ran the first block only
    × faster    denoising seconds without the cache, divided by those with it
    followed    share of pictures that the judge finds right
    moved       mean change of a channel, of 255, against the picture without the cache

Also what a preview costs, as a share of one request's step alone.
"""

import json
import statistics
import sys
import time
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from inference.engine import BatchReport, Engine
from inference.house_model.evaluate import Drawn, Sampling, draw
from inference.models import catalog
from inference.request import Request
from inference.state import Picture

THRESHOLDS = (0.0, 0.1, 0.2, 0.3, 0.5)


class CachingEngine(Engine):
    """An engine that gives each request the threshold being measured, and keeps the requests."""

    def __init__(self) -> None:
        super().__init__(device="cpu", on_batch=self._note)
        self.threshold = 0.0
        self.seconds = self._before = 0.0
        self.requests: list[Request] = []

    def submit(self, request: Request) -> Future[Picture]:
        request = replace(request, step_cache=self.threshold)
        self.requests.append(request)
        return super().submit(request)

    def draw(self, threshold: float, captions: int, steps: int) -> tuple[list[Drawn], list[Picture], float]:
        """Draw the first captions; return the pictures and the seconds of their denoising."""
        self.threshold, self.seconds, self.requests = threshold, 0.0, []
        drawn = draw(self, captions, Sampling(steps, catalog.card().default_guidance_scale))
        return drawn, [request.ticket.future.result() for request in self.requests], self.seconds

    def _note(self, report: BatchReport) -> None:
        now = time.thread_time()
        self.seconds += now - self._before if report.phase == "denoise" else 0.0
        self._before = now


def main(quick: bool = False) -> dict[str, Any]:
    """Measure and return the figures by threshold, JSON-ready."""
    torch.set_num_threads(1)
    captions, steps = (20, 6) if quick else (200, catalog.card().default_steps)
    with CachingEngine() as engine:
        engine.draw(0.0, 10, 2)  # warms up
        found = {threshold: engine.draw(threshold, captions, steps) for threshold in THRESHOLDS}
        plain, _, seconds = found[0.0]
        return {
            "captions": captions,
            "steps": steps,
            "by threshold": {
                f"{threshold:g}": {
                    "reused": share(pictures),
                    "× faster": round(seconds / spent, 3),
                    "followed": statistics.mean(one.verdict.followed for one in drawn),
                    "moved": round(statistics.mean(map(moved, plain, drawn)), 3),
                }
                for threshold, (drawn, pictures, spent) in found.items()
            },
            "preview, share of a step": preview(engine),
        }


def share(pictures: list[Picture]) -> float:
    return round(sum(one.steps_reused for one in pictures) / sum(one.steps_run for one in pictures), 4)


def moved(one: Drawn, other: Drawn) -> float:
    return float(np.abs(np.asarray(one.picture).astype(int) - np.asarray(other.picture)).mean())


def preview(engine: CachingEngine) -> float:
    """Measure a preview's median time, as a share of one guided request's median step with its preview."""
    costs, ended = [], []

    def look(request: Request) -> None:
        begun = time.thread_time()
        engine.preview(request)
        costs.append(time.thread_time() - begun)
        ended.append(engine.seconds)

    engine.threshold, engine.seconds = 0.0, 0.0
    engine.submit(Request("a red circle", width=128, height=128, steps=20, guidance_scale=3.0, seed=0, on_step=look))
    engine.requests[-1].ticket.future.result()
    return round(statistics.median(costs) / statistics.median(np.diff(ended)), 4)


if __name__ == "__main__":
    print(json.dumps(main("--quick" in sys.argv), indent=2))
