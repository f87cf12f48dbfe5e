"""How long a step takes on this device, by image tokens: measured once, kept on disk, and what the cap follows from.

The table is kept in the folder KILN_CALIBRATION, a file for each model revision, device, torch and number of threads.
A file that is broken or speaks of something else is measured anew. `python -m inference.calibrate` prints the table.
"""

import hashlib
import json
import logging
import os
import platform
import tempfile
import time
from bisect import bisect_left
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from inference.card import ModelCard
from inference.request import Phase, Request
from inference.runner import Runner
from inference.scheduling.scheduler import Batch

log = logging.getLogger(__name__)

FORMAT = 2
# what measuring one size may take, as far as the size before foretells it
POINT_SECONDS = 4.0
MAX_ROWS = 64
# twice as large a batch must bring so much more throughput, or larger ones are not tried
WORTH_IT = 1.03
# the cap is the smallest batch with this share of the best throughput
KNEE = 0.9
_RUNS = 3


@dataclass(frozen=True)
class StepTimes:
    """Seconds of a step by image tokens of its forward, ascending; both as long, at least one."""

    tokens: tuple[int, ...]
    seconds: tuple[float, ...]

    def at(self, tokens: int) -> float:
        """Seconds of a step of so many tokens: between two that were measured, or in proportion to the largest."""
        index = bisect_left(self.tokens, tokens)
        if index == 0:
            return self.seconds[0]
        if index == len(self.tokens):
            return self.seconds[-1] * tokens / self.tokens[-1]
        (low, high), (fast, slow) = self.tokens[index - 1 : index + 1], self.seconds[index - 1 : index + 1]
        return fast + (slow - fast) * (tokens - low) / (high - low)

    def knee(self) -> int:
        """The fewest tokens a forward that bring nearly as many tokens a second as the best."""
        rates = [tokens / seconds for tokens, seconds in zip(self.tokens, self.seconds, strict=True)]
        return next(tokens for tokens, rate in zip(self.tokens, rates, strict=True) if rate >= KNEE * max(rates))


def step_times(card: ModelCard, device: torch.device, runner: Runner, *, again: bool = False) -> StepTimes:
    """The table on disk, or measured now (`again`: in any case) and kept."""
    identity = _identity(card, device)
    path = _path(identity)
    if not again and (found := _read(path, identity)):
        return found
    times = measure(card, runner)
    _write(path, identity, times)
    log.info("measured steps: %s", ", ".join(f"{t} tokens {1000 * s:.0f} ms" for t, s in _pairs(times)))
    return times


def max_batch_tokens(card: ModelCard, times: StepTimes) -> int:
    """The cap: the knee, and never less than one guided picture of the model's usual size."""
    return max(times.knee(), _request(card, card.default_width, card.default_height).image_tokens)


def measure(card: ModelCard, runner: Runner) -> StepTimes:
    """Steps of 1, 2, 4… guided pictures of half the usual side, until two doublings brought nothing or are too slow."""
    sides = (max(card.min_side, side // 2 // card.side_multiple * card.side_multiple) for side in _usual(card))
    first = _request(card, *sides)
    runner.run(Batch(Phase.ENCODE, (first,)))
    rows, table = 1, [(first.image_tokens, _step_seconds(runner, first, 1))]
    while rows < MAX_ROWS and 2 * _RUNS * table[-1][1] < POINT_SECONDS and _worth_it(table):
        rows *= 2
        try:
            table.append((rows * first.image_tokens, _step_seconds(runner, first, rows)))
        except torch.OutOfMemoryError:
            break
    tokens, seconds = zip(*table, strict=True)
    return StepTimes(tokens, seconds)


def _worth_it(table: list[tuple[int, float]]) -> bool:
    """Whether one of the last two doublings brought more pictures a second."""
    rates = [tokens / seconds for tokens, seconds in table]
    return len(rates) < 3 or max(rates[-2:]) >= WORTH_IT * max(rates[:-2])


def _step_seconds(runner: Runner, first: Request, rows: int) -> float:
    """The shortest of a few steps, after one that warms the shape up."""
    batch, took = Batch(Phase.DENOISE, tuple(_twin(first) for _ in range(rows))), []
    for _ in range(_RUNS):
        begun = time.perf_counter()
        runner.run(batch)
        took.append(time.perf_counter() - begun)
    return min(took[1:])


def _twin(request: Request) -> Request:
    """Another request that has come as far."""
    twin = replace(request)
    vars(twin.state).update(vars(request.state))
    return twin


def _request(card: ModelCard, width: int, height: int) -> Request:
    scale = max(card.default_guidance_scale, 2.0)
    return Request("", width=width, height=height, steps=_RUNS + 1, guidance_scale=scale, seed=0)


def _usual(card: ModelCard) -> tuple[int, int]:
    return card.default_width, card.default_height


def _identity(card: ModelCard, device: torch.device) -> dict[str, Any]:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return {
        "format": FORMAT,
        "model": card.name,
        "revision": card.revision,
        "device": f"{device.type} {name}",
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
        log.warning("the measured steps are not kept: %s", error)


def _pairs(times: StepTimes) -> list[tuple[int, float]]:
    return list(zip(times.tokens, times.seconds, strict=True))
