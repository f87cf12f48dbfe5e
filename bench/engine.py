"""Measures the engine beside diffusers' pipeline and its bare transformer: `python -m bench.engine [--quick]`.

A step is one picture's denoising step with guidance, 128 by 128 pixels, on one thread. All take turns in one process,
so that ratios compare neighbours in time; they are given as the median over the rounds, with quartiles:

    kiln       the engine with 1, 2, 4 and 8 requests in a batch
    diffusers  QwenImagePipeline called for one picture at a time, timed from text to pixels
    raw        forwards of diffusers' unmodified transformer on ready tensors, padded to the longest prompt; a round's
               median forward is compared with the engine's median time from step to step, scheduling included
"""

import json
import statistics
import sys
import time
from itertools import pairwise
from typing import Any

import torch
from diffusers import QwenImagePipeline
from torch.nn import functional

from inference.engine import BatchReport, Engine
from inference.models import catalog
from inference.request import Request

BATCHES = (1, 2, 4, 8)
SIDE, GUIDANCE = 128, 3.0
PROMPTS = (
    "a red circle on a white background",
    "a blue square in the top left corner on a striped green background",
    "a small yellow star on the right, black background",
    "红色背景的左上角有一个小的蓝色圆形",
)


def main(quick: bool = False) -> dict[str, Any]:
    """Measure and return the figures by batch, JSON-ready."""
    rounds, steps = (3, 6) if quick else (11, 20)
    torch.set_num_threads(1)
    pipeline = QwenImagePipeline.from_pretrained(catalog.card().path, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    kiln = Kiln()
    with kiln.engine:
        return {"by batch": {str(rows): compare(kiln, pipeline, rows, steps, rounds) for rows in BATCHES}}


class Kiln:
    """An engine that gets a whole batch at once, between two of its own batches, and is timed phase by phase."""

    def __init__(self) -> None:
        self.engine = Engine(device="cpu", max_batch_tokens=2048, on_batch=self._note)
        self._arriving: list[Request] = []
        self._began = self._ended = 0.0
        self._stepped: list[float] = []

    def make(self, requests: list[Request]) -> tuple[float, float]:
        """Make pictures; return the seconds of everything, and of a step."""
        self._arriving = requests
        self.engine.submit(request(0, steps=1)).result()
        for each in requests:
            each.ticket.future.result()
        steps = [after - before for before, after in pairwise(self._stepped)]
        return self._ended - self._began, statistics.median(steps)

    def _note(self, report: BatchReport) -> None:
        self._ended = time.perf_counter()
        if report.phase == "denoise":
            self._stepped.append(self._ended)
        if report.phase == "decode" and self._arriving:
            arriving, self._arriving = self._arriving, []
            self._began, self._stepped = time.perf_counter(), []
            for each in arriving:
                self.engine.submit(each)


def compare(kiln: Kiln, pipeline: QwenImagePipeline, rows: int, steps: int, rounds: int) -> dict[str, Any]:
    """Measure one row of the table."""
    inputs = ready(pipeline, rows)
    everything, step, single, forward = [], [], [], []
    for index in range(rounds + 1):
        both = kiln.make([request(row, steps) for row in range(rows)])
        alone = plain(pipeline, index, steps)
        bare = forwards(pipeline, inputs, steps)
        if index:  # the first round warms up
            for times, seconds in zip((everything, step, single, forward), (*both, alone, bare), strict=True):
                times.append(seconds)
    faster = [rows * one / batch for one, batch in zip(single, everything, strict=True)]
    share = [bare / ours for bare, ours in zip(forward, step, strict=True)]
    return {
        "kiln steps/s": round(rows / statistics.median(step), 1),
        "raw steps/s": round(rows / statistics.median(forward), 1),
        "diffusers steps/s": round(steps / statistics.median(single), 1),
        **spread("× diffusers", faster),
        **spread("share of raw", share),
    }


def spread(name: str, ratios: list[float]) -> dict[str, float]:
    """Return the median of the ratios, and their quartiles."""
    low, middle, high = statistics.quantiles(ratios, n=4)
    return {name: round(middle, 3), f"{name}, q1": round(low, 3), f"{name}, q3": round(high, 3)}


def request(row: int, steps: int) -> Request:
    """Make the request of a row, the same in every round."""
    prompt = PROMPTS[row % len(PROMPTS)]
    return Request(prompt, width=SIDE, height=SIDE, steps=steps, guidance_scale=GUIDANCE, seed=row)


def plain(pipeline: QwenImagePipeline, index: int, steps: int) -> float:
    """Return the seconds of one picture by diffusers' pipeline."""
    begun = time.perf_counter()
    pipeline(
        PROMPTS[index % len(PROMPTS)],
        negative_prompt="",
        true_cfg_scale=GUIDANCE,
        width=SIDE,
        height=SIDE,
        num_inference_steps=steps,
        generator=torch.Generator().manual_seed(index),
    )
    return time.perf_counter() - begun


@torch.inference_mode()
def ready(pipeline: QwenImagePipeline, rows: int) -> dict[str, Any]:
    """Return a forward's arguments for `rows` guided pictures: twice as many rows, the second half without prompts."""
    prompts = [PROMPTS[row % len(PROMPTS)] for row in range(rows)] + [""] * rows
    texts = [pipeline.encode_prompt(prompt)[0][0] for prompt in prompts]
    longest = max(map(len, texts))
    grid = SIDE // 16
    return {
        "hidden_states": torch.randn(2 * rows, grid * grid, pipeline.transformer.config.in_channels),
        "timestep": torch.full((2 * rows,), 0.5),
        "encoder_hidden_states": torch.stack([functional.pad(text, (0, 0, 0, longest - len(text))) for text in texts]),
        "encoder_hidden_states_mask": torch.tensor([[place < len(text) for place in range(longest)] for text in texts]),
        "img_shapes": [[(1, grid, grid)]] * (2 * rows),
    }


@torch.inference_mode()
def forwards(pipeline: QwenImagePipeline, inputs: dict[str, Any], steps: int) -> float:
    """Return the median seconds of so many forwards of the bare transformer."""
    ended = [time.perf_counter()]
    for _ in range(steps):
        pipeline.transformer(**inputs, return_dict=False)
        ended.append(time.perf_counter())
    return statistics.median(after - before for before, after in pairwise(ended))


if __name__ == "__main__":
    print(json.dumps(main("--quick" in sys.argv), indent=2))
