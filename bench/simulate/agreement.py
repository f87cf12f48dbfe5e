"""One machine: the engine with the house model beside its simulation, with a table measured just before."""

import os
import statistics
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from bench.engine import PROMPTS
from bench.simulate import runs, scaling
from bench.simulate.fleet import Fleet
from bench.simulate.step_times import StepTimes
from bench.simulate.traces import CLASSES, Floats, Mix, Trace
from inference.engine import BatchReport, Engine
from inference.request import Phase, Request

MIX = Mix(sides=(128, 192, 256))
TOLERANCE = 0.1
MAX_BATCH_TOKENS = 2048

Figures = dict[str, Any]


def run(count: int) -> Figures:
    """Run the same short trace in the engine and in its simulation."""
    torch.set_num_threads(1)
    times = measure(MIX.sides, 8, 6)
    trace = runs.at_load(count, 1, 1.2, times, MIX)
    with Engine(device="cpu", max_batch_tokens=times.max_batch_tokens) as engine:
        real = in_reality(trace, engine)
    simulated = Fleet(trace, times, scaling.Fixed(1), slots=count, fewest=1).run().finished
    ratio = float(simulated.max() / real.max())
    return {
        "pictures": count,
        "engine, pictures/s": round(count / float(real.max()), 3),
        "simulated, pictures/s": round(count / float(simulated.max()), 3),
        "simulated time × real": round(ratio, 3),
        "mean latency × real": round(float(np.mean(simulated - trace.arrivals) / np.mean(real - trace.arrivals)), 3),
        f"within {TOLERANCE:.0%}": abs(ratio - 1) <= TOLERANCE,
    }


def in_reality(trace: Trace, engine: Engine) -> Floats:
    """Run the engine; return the seconds from the start until each picture was made."""
    finished = np.full(len(trace), np.nan)
    begun, futures = time.monotonic(), []
    for index, arrival in enumerate(trace.arrivals):
        time.sleep(max(0.0, begun + float(arrival) - time.monotonic()))
        guidance_scale = 3.0 if trace.guided[index] else 1.0
        request = order(index, int(trace.sides[index]), int(trace.steps[index]), guidance_scale)
        request = replace(request, service_class=CLASSES[trace.classes[index]], account=str(trace.accounts[index]))
        future = engine.submit(request)
        future.add_done_callback(lambda _, index=index: finished.__setitem__(index, time.monotonic() - begun))
        futures.append(future)
    for future in futures:
        future.result()
    return finished


def measure(sides: Sequence[int], most_rows: int, steps: int) -> StepTimes:
    """Measure this machine's table with the house model in the engine, from batch to batch, scheduling included."""
    curves: dict[int, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    encode, decode = [], []
    ended: list[tuple[BatchReport, float]] = []

    def note(report: BatchReport) -> None:
        ended.append((report, time.perf_counter()))

    with Engine(device="cpu", max_batch_tokens=MAX_BATCH_TOKENS, on_batch=note) as engine:
        for side, guidance_scale, rows in kinds(sides, most_rows):
            ended.clear()
            for future in [engine.submit(order(row, side, steps, guidance_scale)) for row in range(rows)]:
                future.result()
            tokens = (side // 16) ** 2
            for (_, before), (report, after) in pairwise(ended):
                if report.phase == Phase.DENOISE:
                    curves[tokens][report.image_tokens].append(after - before)
                elif report.phase == Phase.DECODE:
                    decode.append((after - before) / tokens)
                else:
                    encode.append((after - before) / report.rows / (2 if guidance_scale > 1 else 1))
    return StepTimes(
        "this machine",
        MAX_BATCH_TOKENS,
        {row: curve(points) for row, points in curves.items()},
        statistics.median(encode),
        statistics.median(decode),
        shared=0.0 if len(os.sched_getaffinity(0)) > 1 else 1.0,  # with one thread each, each has a core of its own
    )


def kinds(sides: Sequence[int], most_rows: int) -> list[tuple[int, float, int]]:
    """Return sides, guidance scales and numbers of rows, the last as powers of two."""
    rows = [2**power for power in range(most_rows.bit_length())]
    return [(side, guidance_scale, count) for side in sides for guidance_scale in (1.0, 3.0) for count in rows]


def curve(points: dict[int, list[float]]) -> list[tuple[int, float]]:
    return sorted((tokens, statistics.median(times)) for tokens, times in points.items())


def order(seed: int, side: int, steps: int, guidance_scale: float) -> Request:
    prompt = PROMPTS[seed % len(PROMPTS)]
    return Request(prompt, width=side, height=side, steps=steps, guidance_scale=guidance_scale, seed=seed)
