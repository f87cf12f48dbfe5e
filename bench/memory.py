"""Measures how much memory the engine takes: `python -m bench.memory [--quick]`.

by batch   the peak of a process of its own, by the number of requests that denoise together: guided, 256 by 256
           pixels, the model and the libraries included; on a GPU, what torch had allocated
flatness   the memory of one process while 1,000 small pictures pass through it, eight at a time, of several sizes,
           with and without guidance and adapters: after each 100, and the slope of a line through all but the first
"""

import json
import multiprocessing
import resource
import sys
import tempfile
from collections import deque
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.engine import PROMPTS
from bench.mixed import make_adapters
from inference.engine import BatchReport, Engine
from inference.request import Request
from inference.state import Picture

BATCHES = (1, 2, 4, 8, 16)
MIB = 2**20
AT_ONCE = 8
SIZES = ((64, 64), (96, 64), (128, 128))

Figures = dict[str, Any]


def main(quick: bool = False) -> Figures:
    """Measure and return the figures, JSON-ready; memory in MiB."""
    count = 100 if quick else 1000
    with tempfile.TemporaryDirectory() as folder:
        adapters = [str(Path(folder, name)) for name in alone(make_adapters, Path(folder))]
        return {"by batch": {str(rows): alone(peak, rows) for rows in BATCHES}, **alone(flatness, count, adapters)}


def alone(measure: Any, *arguments: Any) -> Any:
    """Call a function in a process of its own, and return its result."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        return process.submit(measure, *arguments).result()


def peak(rows: int) -> Figures:
    """Make so many pictures in one batch; return the peak memory of this process."""
    torch.set_num_threads(1)
    requests = [order(row, 256, 256, steps=3, guidance_scale=3.0) for row in range(rows)]
    together: list[int] = []

    def note(report: BatchReport) -> None:
        together.append(report.rows)

    with Engine(max_batch_tokens=rows * requests[0].image_tokens, on_batch=note) as engine:
        before = most_taken()
        for future in [engine.submit(request) for request in requests]:
            future.result()
        taken = most_taken()
    return {
        "rows together": max(together),
        **{f"{where}, MiB": round(taken[where] / MIB) for where in taken},
        **{f"{where} above a warm engine": round((taken[where] - before[where]) / MIB) for where in taken},
    }


def flatness(count: int, adapters: list[str]) -> Figures:
    """Make `count` pictures; return the memory of this process after each tenth of them."""
    torch.set_num_threads(1)
    taken: list[float] = []
    with Engine() as engine:
        running: deque[Future[Picture]] = deque()
        for index in range(count):
            if len(running) == AT_ONCE:
                running.popleft().result()
            running.append(engine.submit(small(index, adapters)))
            if (index + 1) % (count // 10) == 0:
                taken.append(now_taken() / MIB)
        for future in running:
            future.result()
    slope = float(np.polyfit(range(len(taken) - 1), taken[1:], 1)[0])
    return {
        "pictures": count,
        "MiB after each tenth": [round(each, 1) for each in taken],
        "MiB more a tenth": round(slope, 2),
        "of what it takes": round(slope / taken[-1], 5),
    }


def small(index: int, adapters: list[str]) -> Request:
    width, height = SIZES[index % len(SIZES)]
    adapter = [((path, 1.0),) for path in adapters][index % 4 : index % 4 + 1]
    return order(index, width, height, 2, 3.0 if index % 2 else 1.0, *adapter)


def order(
    index: int, width: int, height: int, steps: int, guidance_scale: float, adapters: tuple[tuple[str, float], ...] = ()
) -> Request:
    return Request(
        PROMPTS[index % len(PROMPTS)],
        width=width,
        height=height,
        steps=steps,
        guidance_scale=guidance_scale,
        seed=index,
        adapters=adapters,
    )


def most_taken() -> dict[str, int]:
    """Return the peak bytes so far of the process, and on the GPU if there is one."""
    taken = {"process": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}
    return taken | ({"GPU": torch.cuda.max_memory_allocated()} if torch.cuda.is_available() else {})


def now_taken() -> int:
    """Return the bytes of the process that are in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


if __name__ == "__main__":
    print(json.dumps(main("--quick" in sys.argv), indent=2))
