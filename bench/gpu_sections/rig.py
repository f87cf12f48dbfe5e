"""What the sections share: a device, a transformer of Qwen-Image's size with random weights, and a clock.

Random weights cost what trained ones cost. Modules that run the same weights in different ways (diffusers' own, Kiln's
backend, a compiled one) share one copy of them, so that they can take turns in one process.
"""

import gc
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from diffusers import AutoencoderKLQwenImage, QwenImageTransformer2DModel

from inference.backends.pytorch import TorchBackend
from inference.card import ModelCard
from inference.models import autoencoder
from inference.models.forms import MemoryProfile
from inference.models.qwen_image import QwenImage
from inference.request import TILE, Request
from inference.state import Grid

Row = dict[str, Any]

# Qwen-Image's own, from its published scheduler configuration
SAMPLER: Mapping[str, Any] = {
    "base_image_seq_len": 256,
    "base_shift": 0.5,
    "max_image_seq_len": 8192,
    "max_shift": 0.9,
    "shift_terminal": 0.02,
    "time_shift_type": "exponential",
    "use_dynamic_shifting": True,
}
# tokens of prompts; the last is what Qwen-Image's template leaves of an empty one
PROMPT = "picture "
PROMPT_TOKENS = (40, 57, 83, 120)
EMPTY_TOKENS = 5


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How much is measured: on a GPU in full, on a processor with a model of two small blocks.

    Of the random model: its configuration where it is not Qwen-Image's own, both sides in pixels, batches of guided
    pictures. Of the card: matrices, seconds of their products without a pause, bytes. Of the house model: the side in
    pixels, how many batch-mates a picture is given, how many random jobs.
    """

    transformer: Mapping[str, Any]
    autoencoder: Mapping[str, Any]
    small: int
    large: int
    batches: tuple[int, ...]
    matrix: int
    hot_seconds: float
    copied_bytes: int
    rounds: int
    steps: int
    side: int
    batch_mates: int
    jobs: int


FULL = Scale(
    transformer={},
    autoencoder={},
    small=512,
    large=1024,
    batches=(1, 2, 4, 8),
    matrix=8192,
    hot_seconds=0.5,
    copied_bytes=2**32,
    rounds=3,
    steps=8,
    side=128,
    batch_mates=3,
    jobs=200,
)
TINY = Scale(
    transformer={
        "num_layers": 2,
        "num_attention_heads": 2,
        "attention_head_dim": 32,
        "axes_dims_rope": (8, 12, 12),
        "joint_attention_dim": 64,
    },
    autoencoder={"base_dim": 8},
    small=32,
    large=64,
    batches=(1, 2),
    matrix=256,
    hot_seconds=0.01,
    copied_bytes=2**22,
    rounds=1,
    steps=2,
    side=64,
    batch_mates=1,
    jobs=6,
)


class Inputs(NamedTuple):
    """What a forward of guided pictures takes, all prompts first, then as many negative ones."""

    latents: torch.Tensor
    sigmas: torch.Tensor
    texts: list[torch.Tensor]
    grids: list[Grid]

    @property
    def rows(self) -> int:
        return len(self.latents)


class Rig:
    """One device and the modules on it, made when a section first asks."""

    def __init__(self, device: torch.device, scale: Scale) -> None:
        self.device = device
        self.scale = scale
        self.dtype = torch.bfloat16 if self.on_gpu else torch.float32
        self._transformer: QwenImageTransformer2DModel | None = None
        self.card = ModelCard(
            name="qwen-image, random weights",
            path="",
            revision="random",
            min_side=scale.small // 2,
            default_width=scale.large,
            default_height=scale.large,
        )

    @property
    def on_gpu(self) -> bool:
        return self.device.type == "cuda"

    def share(self) -> QwenImageTransformer2DModel:
        """Another transformer with the same weights, unmodified."""
        if self._transformer is None:
            torch.manual_seed(0)
            self._transformer = self._made(QwenImageTransformer2DModel, self.scale.transformer)
        with torch.inference_mode(False), torch.device("meta"):
            other = QwenImageTransformer2DModel(**self.scale.transformer)
            other.load_state_dict(self._transformer.state_dict(), assign=True)
        # its tables of angles are no weights
        other.pos_embed = self._transformer.pos_embed
        return other.eval().requires_grad_(False)

    def backend(self) -> TorchBackend:
        return TorchBackend(self.share())

    @cached_property
    def autoencoder(self) -> AutoencoderKLQwenImage:
        return autoencoder.flatten_time(self._made(AutoencoderKLQwenImage, self.scale.autoencoder))

    @cached_property
    def peak(self) -> float:
        """Products of square matrices in the model's type, one after a pause, in operations a second."""
        return self.products(1, 10)

    def products(self, count: int, rounds: int) -> float:
        """The same, so many without a pause."""
        size = self.scale.matrix
        one, other = (torch.randn(size, size, device=self.device, dtype=self.dtype) for _ in range(2))

        def multiply() -> None:
            for _ in range(count):
                torch.mm(one, other)

        return count * 2 * size**3 / middle(self.seconds({"products": multiply}, rounds)["products"])

    def blocks(self, count: int) -> QwenImageTransformer2DModel:
        """A transformer of a few blocks, with weights of its own."""
        torch.manual_seed(0)
        made: QwenImageTransformer2DModel = self._made(
            QwenImageTransformer2DModel, {**self.scale.transformer, "num_layers": count}
        )
        return made

    def release(self) -> None:
        """Let go of the weights, so that those who share them are their only holders."""
        self._transformer = None

    def _made(self, kind: type, config: Mapping[str, Any]) -> Any:
        usual = torch.get_default_dtype()
        torch.set_default_dtype(self.dtype)
        try:
            with torch.inference_mode(False), torch.device(self.device):
                return kind(**config).eval().requires_grad_(False)
        finally:
            torch.set_default_dtype(usual)

    def text(self, tokens: int) -> torch.Tensor:
        return torch.randn(tokens, self.width, device=self.device, dtype=self.dtype)

    @property
    def width(self) -> int:
        return int(self.scale.transformer.get("joint_attention_dim", 3584))

    def inputs(self, side: int, batch: int) -> Inputs:
        """A forward of `batch` guided pictures: twice as many rows, of prompts of several lengths."""
        grid = (side // TILE, side // TILE)
        latents = torch.randn(2 * batch, grid[0] * grid[1], 64, device=self.device)
        texts = [self.text(PROMPT_TOKENS[row % len(PROMPT_TOKENS)]) for row in range(batch)]
        texts += [self.text(EMPTY_TOKENS)] * batch
        return Inputs(latents, torch.full((2 * batch,), 0.5, device=self.device), texts, [grid])

    def operations(self, inputs: Inputs) -> float:
        """Floating-point operations of a forward that pads nothing: products of the blocks, attention included."""
        width = self.inner_width
        image = inputs.latents.shape[1]
        tokens = [image + len(text) for text in inputs.texts]
        # a token passes 12 width² weights a block; each pair of tokens costs 2 products of 2 · width operations
        blocks = int(self.scale.transformer.get("num_layers", 60))
        return blocks * sum(24 * width**2 * each + 4 * width * each**2 for each in tokens)

    @property
    def inner_width(self) -> int:
        heads = self.scale.transformer.get("num_attention_heads", 24)
        return int(heads * self.scale.transformer.get("attention_head_dim", 128))

    def synchronize(self) -> None:
        if self.on_gpu:
            torch.cuda.synchronize(self.device)

    def seconds(
        self, acts: Mapping[str, Callable[[], object]], rounds: int | None = None, *, warm: bool = True
    ) -> dict[str, list[float]]:
        """Seconds of each act, round by round in turns, after one of each that warms up unless it is not to."""
        times: dict[str, list[float]] = {name: [] for name in acts}
        for index in range(0 if warm else 1, (rounds or self.scale.rounds) + 1):
            for name, act in acts.items():
                self.synchronize()
                begun = time.perf_counter()
                act()
                self.synchronize()
                if index:
                    times[name].append(time.perf_counter() - begun)
        return times

    def empty(self) -> None:
        """Give back what no tensor needs, and count the peak of memory from here."""
        gc.collect()
        if self.on_gpu:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)

    def allocated(self) -> int:
        """Bytes that tensors have on the GPU; 0 on a processor."""
        return torch.cuda.memory_allocated(self.device) if self.on_gpu else 0

    def most_allocated(self) -> int:
        """The most bytes that tensors had on the GPU at once since `empty`; 0 on a processor."""
        return torch.cuda.max_memory_allocated(self.device) if self.on_gpu else 0

    def peak_memory(self) -> Row:
        """GiB that tensors had at once since `empty`, weights included; nothing to say of a CPU."""
        if not self.on_gpu:
            return {}
        return {"peak GiB": round(torch.cuda.max_memory_allocated(self.device) / 2**30, 1)}


class RandomModel(QwenImage):
    """The rig's parts for an engine: prompts become random numbers, each always the same, those of `request` as many as
    the row of `Rig.inputs` with the number of their seed."""

    def __init__(self, rig: Rig) -> None:
        self.device = rig.device
        self.transformer = rig.share()
        self.sampler_config = SAMPLER
        self.channels = 64
        self._autoencoder = rig.autoencoder
        self._width = rig.width

    def encode(self, prompt: str) -> torch.Tensor:
        seed = int(prompt.removeprefix(PROMPT)) if prompt else 0
        tokens = PROMPT_TOKENS[seed % len(PROMPT_TOKENS)] if prompt else EMPTY_TOKENS
        text = torch.randn(tokens, self._width, generator=torch.Generator().manual_seed(seed))
        return text.to(self.device, self.transformer.dtype)


def load(rig: Rig) -> Callable[[ModelCard, torch.device, MemoryProfile], QwenImage]:
    """What an engine is given to load the rig's model."""
    return lambda card, device, profile: RandomModel(rig)


def request(side: int, steps: int, seed: int, **changes: Any) -> Request:
    values = {"width": side, "height": side, "steps": steps, "guidance_scale": 4.0, "seed": seed} | changes
    return Request(f"{PROMPT}{seed}", **values)


def middle(times: Sequence[float]) -> float:
    return statistics.median(times)


def ratios(ones: Sequence[float], others: Sequence[float]) -> float:
    """The median of neighbours' ratios."""
    return round(middle([one / other for one, other in zip(ones, others, strict=True)]), 3)
