"""One real engine with the real house model for all tests of the engine, watched batch by batch."""

import threading
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import pytest
import torch
from diffusers import QwenImagePipeline
from safetensors.torch import save_file

from inference.engine import BatchReport, Engine
from inference.house_model.architecture import HEAD_WIDTH, HEADS, LAYERS
from inference.latent_cache.reuse import Hit
from inference.models import catalog
from inference.request import Request
from inference.state import Picture


class Watch:
    """A collector of reports; `at(n, act)` acts after the n-th batch from now, in the thread that ran it."""

    def __init__(self) -> None:
        self.reports: list[BatchReport] = []
        self._acts: dict[int, list[Callable[[], object]]] = {}
        self._lock = threading.Lock()

    def __call__(self, report: BatchReport) -> None:
        with self._lock:
            self.reports.append(report)
            acts = self._acts.pop(len(self.reports), [])
        for act in acts:
            act()

    def at(self, count: int, act: Callable[[], object]) -> None:
        self._acts.setdefault(len(self.reports) + count, []).append(act)

    def reset(self) -> None:
        self.reports.clear()
        self._acts.clear()

    def rows(self, phase: str) -> list[int]:
        return [report.rows for report in self.reports if report.phase == phase]


class FullCache:
    """A latent cache with a hit for everybody who may use it: grey under noise of their seed, half way."""

    def look_up(self, request: Request) -> Hit | None:
        if not request.use_cache or request.deterministic or request.operation != "generate":
            return None
        assert request.state.latents is not None
        step = request.steps // 2
        noise = torch.randn(request.state.latents.shape, generator=torch.Generator().manual_seed(request.seed))
        return Hit(
            noise * request.state.sigmas[step], request.state.sigmas[step], step, 0.95, request.seed, request.steps
        )

    def offer(self, request: Request) -> None:
        pass


@pytest.fixture(scope="session")
def _watched_engine() -> Iterator[tuple[Engine, Watch]]:
    watch = Watch()
    with Engine(device="cpu", max_batch_tokens=2048, latent_cache=FullCache(), on_batch=watch) as engine:
        yield engine, watch


@pytest.fixture
def watch(_watched_engine: tuple[Engine, Watch]) -> Iterator[Watch]:
    _watched_engine[1].reset()
    yield _watched_engine[1]
    _watched_engine[1].reset()


@pytest.fixture
def engine(_watched_engine: tuple[Engine, Watch], watch: Watch) -> Engine:
    return _watched_engine[0]


@pytest.fixture(scope="session")
def pipeline() -> QwenImagePipeline:
    pipeline = QwenImagePipeline.from_pretrained(catalog.card().path, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="session")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the path of a LoRA that changes every block."""
    path, width = tmp_path_factory.mktemp("adapters") / "adapter.safetensors", HEADS * HEAD_WIDTH
    draw = partial(torch.randn, generator=torch.Generator().manual_seed(0))
    factors = {}
    for block in range(LAYERS):
        layer = f"transformer.transformer_blocks.{block}.attn.to_v"
        factors |= {f"{layer}.lora_A.weight": 0.1 * draw(8, width), f"{layer}.lora_B.weight": 0.1 * draw(width, 8)}
    save_file(factors, path)
    return str(path)


def order(prompt: str = "a red circle on a white background", **changes) -> Request:
    """Make a small request: 128 by 128 pixels, 4 steps, guided."""
    values = {"width": 128, "height": 128, "steps": 4, "guidance_scale": 4.0, "seed": 7} | changes
    return Request(prompt, **values)


def difference(one: Picture, other: Picture) -> int:
    """Return the largest difference of any channel of any pixel, of 255."""
    return int(np.abs(np.asarray(one.image).astype(int) - np.asarray(other.image)).max())
