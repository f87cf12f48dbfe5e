"""Step times on this device by image tokens: measured once, stored on disk, and the basis of the batch cap.

The table is stored in the folder KILN_CALIBRATION, one file for each model revision, device, backend, torch version
and number of threads. If a file is broken or belongs to something else, the table is measured again. `python -m
inference.calibrate` prints it.
"""

import hashlib
import json
import logging
import os
import platform
import tempfile
import time
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from inference import memory
from inference.card import ModelCard
from inference.request import Phase, Request
from inference.runner import Runner
from inference.scheduling.scheduler import Batch

log = logging.getLogger(__name__)

FORMAT = 2
# what measuring one size may take, predicted from the size before
POINT_SECONDS = 4.0
MAX_ROWS = 64
# a batch twice as large must raise throughput by this factor, or larger ones are not tried
WORTH_IT = 1.03
# the cap is the smallest batch with this share of the best throughput
KNEE = 0.9
_RUNS = 3


@dataclass(frozen=True)
class StepTimes:
    """Seconds of a step by image tokens of its forward, in ascending order; at least one of each."""

    tokens: tuple[int, ...]
    seconds: tuple[float, ...]

    def at(self, tokens: int) -> float:
        """Return the seconds of a step of so many tokens: interpolated, or in proportion to the largest measured."""
        index = bisect_left(self.tokens, tokens)
        if index == 0:
            return self.seconds[0]
        if index == len(self.tokens):
            return self.seconds[-1] * tokens / self.tokens[-1]
        (low, high), (fast, slow) = self.tokens[index - 1 : index + 1], self.seconds[index - 1 : index + 1]
        return fast + (slow - fast) * (tokens - low) / (high - low)

    def knee(self) -> int:
        """Return the fewest tokens per forward with at least KNEE of the best throughput."""
        rates = [tokens / seconds for tokens, seconds in zip(self.tokens, self.seconds, strict=True)]
        return next(tokens for tokens, rate in zip(self.tokens, rates, strict=True) if rate >= KNEE * max(rates))


def step_times(
    card: ModelCard, device: torch.device, runner: Runner, backend: str = "torch", *, again: bool = False
) -> StepTimes:
    """Return the stored table, or measure one and store it; with `again` always measure."""
    identity = _identity(card, device, backend)
    path = _path(identity)
    if not again and (found := _read(path, identity)):
        return found
    times = measure(card, runner)
    _write(path, identity, times)
    log.info("measured steps: %s", ", ".join(f"{t} tokens {1000 * s:.0f} ms" for t, s in _pairs(times)))
    return times


def max_batch_tokens(card: ModelCard, times: StepTimes) -> int:
    """Return the cap: the knee, but never less than one guided picture of the model's usual size."""
    return max(times.knee(), _request(card, card.default_width, card.default_height).image_tokens)


def measure(card: ModelCard, runner: Runner, clock: Callable[[], float] = time.perf_counter) -> StepTimes:
    """Time steps of 1, 2, 4… guided pictures of half the usual side, until that gains nothing or takes too long."""
    sides = (max(card.min_side, side // 2 // card.side_multiple * card.side_multiple) for side in _usual(card))
    first = _request(card, *sides)
    runner.run(Batch(Phase.ENCODE, (first,)))
    rows, table = 1, [(first.image_tokens, _step_seconds(runner, first, 1, clock))]
    while rows < MAX_ROWS and 2 * _RUNS * table[-1][1] < POINT_SECONDS and _worth_it(table):
        rows *= 2
        try:
            table.append((rows * first.image_tokens, _step_seconds(runner, first, rows, clock)))
        except Exception as error:
            if not memory.ran_out(error):
                raise
            break
    tokens, seconds = zip(*table, strict=True)
    return StepTimes(tokens, seconds)


def _worth_it(table: list[tuple[int, float]]) -> bool:
    """Return whether one of the last two doublings raised the throughput."""
    rates = [tokens / seconds for tokens, seconds in table]
    return len(rates) < 3 or max(rates[-2:]) >= WORTH_IT * max(rates[:-2])


def _step_seconds(runner: Runner, first: Request, rows: int, clock: Callable[[], float]) -> float:
    """Return the shortest time of a few steps, after one that warms up the shape."""
    batch, took = Batch(Phase.DENOISE, tuple(_twin(first) for _ in range(rows))), []
    for _ in range(_RUNS):
        begun = clock()
        runner.run(batch)
        took.append(clock() - begun)
    return min(took[1:])


def _twin(request: Request) -> Request:
    """Return another request with the same progress."""
    twin = replace(request)
    vars(twin.state).update(vars(request.state))
    return twin


def _request(card: ModelCard, width: int, height: int) -> Request:
    scale = max(card.default_guidance_scale, 2.0)
    return Request("", width=width, height=height, steps=_RUNS + 1, guidance_scale=scale, seed=0)


def _usual(card: ModelCard) -> tuple[int, int]:
    return card.default_width, card.default_height


def _identity(card: ModelCard, device: torch.device, backend: str) -> dict[str, Any]:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return {
        "format": FORMAT,
        "model": card.name,
        "revision": card.revision,
        "device": f"{device.type} {name}",
        "backend": backend,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }


def _path(identity: dict[str, Any]) -> Path:
    folder = os.environ.get("KILN_CALIBRATION") or "~/.cache/kiln"
    digest = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:12]
    return Path(folder).expanduser() / f"steps-{digest}.json"


def _read(path: Path, identity: dict[str, Any]) -> StepTimes | None:
    try:
        kept = json.loads(path.read_text())
        tokens, seconds = zip(*kept["steps"], strict=True)
        times = StepTimes(tuple(map(int, tokens)), tuple(map(float, seconds)))
        known = kept["identity"] == identity
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return times if known and min(times.seconds) > 0 and list(tokens) == sorted(set(tokens)) else None


def _write(path: Path, identity: dict[str, Any], times: StepTimes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as file:
            json.dump({"identity": identity, "steps": _pairs(times)}, file)
        Path(file.name).replace(path)
    except OSError as error:
        log.warning("the measured steps could not be stored: %s", error)


def _pairs(times: StepTimes) -> list[tuple[int, float]]:
    return list(zip(times.tokens, times.seconds, strict=True))
