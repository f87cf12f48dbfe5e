"""The three servers of `bench/mixed.py`, each for a process of its own:

    diffusers   QwenImagePipeline with the adapters loaded through PEFT, one order at a time, first come, first served
    triton      request-level dynamic batching in the manner of Triton, before the same pipeline: orders of one size,
                number of steps, guidance and adapter wait for others of their kind until the batch is full or the
                oldest has waited 100 ms; a batch runs from its first step to its last
    kiln        the engine

The last two have the same cap of image tokens on a batch.
"""

import itertools
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch
from diffusers import QwenImagePipeline
from diffusers.utils import logging
from numpy.typing import NDArray
from PIL import Image

from inference.engine import BatchReport, Engine
from inference.models import catalog
from inference.request import Phase, Request
from inference.state import Picture

WINDOW = 0.1
MAX_BATCH_TOKENS = 2048
SCALE = 1.0
FEWEST = 8
CUSTOMERS = 16


class Order(NamedTuple):
    """A customer's order; `side` in pixels, `adapter` the name of a file."""

    prompt: str
    side: int
    steps: int
    guidance_scale: float
    adapter: str | None
    seed: int

    @property
    def kind(self) -> tuple[int, int, float, str | None]:
        """What orders must have in common to share one call of the pipeline."""
        return self[1:5]


@dataclass(frozen=True)
class Served:
    """The result of a load: seconds from the first arrival to the last picture, and for each order from its arrival to
    its picture; pictures [height, width, 3]; the mean rows of a forward, guidance's second ones not counted."""

    seconds: float
    latencies: list[float]
    pictures: list[NDArray[np.uint8]]
    rows: float


class Server(Protocol):
    def serve(self, orders: list[Order], arrivals: list[float], limit: float) -> Served:
        """Serve orders that arrive at these seconds from now, in order.

        Only diffusers stops taking orders after `limit` seconds, once it has `FEWEST`.
        """


def prepare(name: str, folder: Path) -> None:
    """Make the server of that name in this process, on one core, with the adapters in `folder`."""
    global _server, _folder
    torch.set_num_threads(1)
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    _folder = folder
    _server = SERVERS[name](folder)


def warm_up() -> None:
    """Run every size and adapter once, with and without guidance."""
    adapters = [path.name for path in sorted(_folder.iterdir())]
    kinds = itertools.product((128, 192, 256), (3.0, 1.0), (None, *adapters))
    orders = [Order("warm", side, 2, guidance, adapter, 0) for side, guidance, adapter in kinds]
    _server.serve(orders, [0.0] * len(orders), float("inf"))


def serve(orders: list[Order], arrivals: list[float], limit: float) -> Served:
    return _server.serve(orders, arrivals, limit)


class Pipeline:
    """Diffusers' pipeline with every adapter loaded."""

    def __init__(self, folder: Path) -> None:
        logging.disable_progress_bar()
        self._pipeline = QwenImagePipeline.from_pretrained(catalog.card().path, dtype=torch.float32)
        self._pipeline.set_progress_bar_config(disable=True)
        for path in sorted(folder.iterdir()):
            self._pipeline.load_lora_weights(folder, weight_name=path.name, adapter_name=path.stem)

    def make(self, orders: list[Order]) -> list[Image.Image]:
        """Make the pictures of orders of one kind in one call."""
        first = orders[0]
        if first.adapter:
            self._pipeline.enable_lora()
            self._pipeline.set_adapters(Path(first.adapter).stem, SCALE)
        else:
            self._pipeline.disable_lora()
        return self._pipeline(
            [order.prompt for order in orders],
            negative_prompt=[""] * len(orders) if first.guidance_scale > 1 else None,
            true_cfg_scale=first.guidance_scale,
            width=first.side,
            height=first.side,
            num_inference_steps=first.steps,
            generator=[torch.Generator().manual_seed(order.seed) for order in orders],
        ).images


class Diffusers:
    def __init__(self, folder: Path) -> None:
        self._pipeline = Pipeline(folder)

    def serve(self, orders: list[Order], arrivals: list[float], limit: float) -> Served:
        begun, latencies, pictures = time.perf_counter(), [], []
        for index, (order, arrival) in enumerate(zip(orders, arrivals, strict=True)):
            if index >= FEWEST and time.perf_counter() - begun > limit:
                break
            wait_until(begun + arrival)
            pictures += [np.asarray(image) for image in self._pipeline.make([order])]
            latencies.append(time.perf_counter() - begun - arrival)
        return Served(time.perf_counter() - begun, latencies, pictures, 1.0)


class Triton:
    def __init__(self, folder: Path) -> None:
        self._pipeline = Pipeline(folder)

    def serve(self, orders: list[Order], arrivals: list[float], limit: float) -> Served:
        begun, forwards = time.perf_counter(), 0
        latencies, pictures = dict[int, float](), dict[int, Image.Image]()
        waiting: dict[tuple[object, ...], list[int]] = {}
        coming = iter(range(len(orders)))
        following = next(coming, None)
        while following is not None or waiting:
            now = time.perf_counter() - begun
            while following is not None and arrivals[following] <= now:
                waiting.setdefault(orders[following].kind, []).append(following)
                following = next(coming, None)
            due = {group[0]: group for group in waiting.values() if self._is_due(group, orders, arrivals, now)}
            if not due:
                next_due = [arrivals[group[0]] + WINDOW for group in waiting.values()]
                wait_until(begun + min([*next_due, *([] if following is None else [arrivals[following]])]))
                continue
            group = due[min(due)]
            first = orders[group[0]]
            batch, waiting[first.kind] = group[: most(first)], group[most(first) :]
            waiting = {kind: group for kind, group in waiting.items() if group}
            pictures.update(zip(batch, self._pipeline.make([orders[index] for index in batch]), strict=True))
            forwards += first.steps
            latencies.update({index: time.perf_counter() - begun - arrivals[index] for index in batch})
        seconds, places = time.perf_counter() - begun, range(len(orders))
        made = [np.asarray(pictures[index]) for index in places]
        rows = sum(order.steps for order in orders) / forwards
        return Served(seconds, [latencies[index] for index in places], made, rows)

    def _is_due(self, group: list[int], orders: list[Order], arrivals: list[float], now: float) -> bool:
        return len(group) >= most(orders[group[0]]) or now - arrivals[group[0]] >= WINDOW


class Kiln:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._rows: list[int] = []
        self._engine = Engine(device="cpu", max_batch_tokens=MAX_BATCH_TOKENS, on_batch=self._note)
        self._engine.start()

    def serve(self, orders: list[Order], arrivals: list[float], limit: float) -> Served:
        self._rows.clear()
        begun, ended = time.perf_counter(), [0.0] * len(orders)
        futures = []
        for index, (order, arrival) in enumerate(zip(orders, arrivals, strict=True)):
            wait_until(begun + arrival)
            future = self._engine.submit(self._request(order))
            future.add_done_callback(lambda _, index=index: ended.__setitem__(index, time.perf_counter() - begun))
            futures.append(future)
        pictures: list[Picture] = [future.result() for future in futures]
        seconds = time.perf_counter() - begun
        latencies = [end - arrival for end, arrival in zip(ended, arrivals, strict=True)]
        made = [np.asarray(picture.image) for picture in pictures]
        return Served(seconds, latencies, made, float(np.mean(self._rows)))

    def _request(self, order: Order) -> Request:
        return request(order, ((str(self._folder / order.adapter), SCALE),) if order.adapter else ())

    def _note(self, report: BatchReport) -> None:
        if report.phase == Phase.DENOISE:
            self._rows.append(report.rows)


SERVERS: dict[str, Callable[[Path], Server]] = {"diffusers": Diffusers, "triton": Triton, "kiln": Kiln}
_server: Server
_folder: Path


def request(order: Order, adapters: tuple[tuple[str, float], ...] = ()) -> Request:
    return Request(
        order.prompt,
        width=order.side,
        height=order.side,
        steps=order.steps,
        guidance_scale=order.guidance_scale,
        seed=order.seed,
        account=str(order.seed % CUSTOMERS),
        adapters=adapters,
    )


def most(order: Order) -> int:
    """Return how many of these orders fill a batch."""
    return max(1, MAX_BATCH_TOKENS // request(order).image_tokens)


def wait_until(moment: float) -> None:
    time.sleep(max(0.0, moment - time.perf_counter()))
