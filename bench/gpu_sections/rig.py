"""The rig that the sections share: a device, a transformer of Qwen-Image's size with random weights, and a clock.

Random weights cost as much time as trained ones. Modules that run the same weights in different ways (diffusers' own,
Kiln's backend, a compiled one) share one copy of them, so that they can take turns in one process.
"""

import gc
import statistics
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from diffusers import AutoencoderKLQwenImage, QwenImageTransformer2DModel

from inference.backends.pytorch import TorchBackend
from inference.card import ModelCard
from inference.models import autoencoder
from inference.models.qwen_image import QwenImage
from inference.request import TILE, Request
from inference.state import Grid

Row = dict[str, Any]

# Qwen-Image's, from its published scheduler configuration
SAMPLER: Mapping[str, Any] = {
    "base_image_seq_len": 256,
    "base_shift": 0.5,
    "max_image_seq_len": 8192,
    "max_shift": 0.9,
    "shift_terminal": 0.02,
    "time_shift_type": "exponential",
    "use_dynamic_shifting": True,
}
# lengths of prompts in tokens; the last is that of an empty one in Qwen-Image's template
PROMPT_TOKENS = (40, 57, 83, 120)
EMPTY_TOKENS = 5


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How much is measured: on a GPU everything, on a processor a model of two small blocks.

    For the random model: its configuration if it differs from Qwen-Image's, both sides in pixels, and batches of guided
    pictures. For the house model: the side in pixels, the number of batch-mates of a picture, and of random jobs.
    """

    transformer: Mapping[str, Any]
    autoencoder: Mapping[str, Any]
    small: int
    large: int
    batches: tuple[int, ...]
    matrix: int
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
    small=64,
    large=128,
    batches=(1, 2),
    matrix=256,
    copied_bytes=2**22,
    rounds=2,
    steps=2,
    side=64,
    batch_mates=1,
    jobs=6,
)


class Inputs(NamedTuple):
    """The inputs of a forward of guided pictures, all prompts first, then as many negative prompts."""

    latents: torch.Tensor
    sigmas: torch.Tensor
    texts: list[torch.Tensor]
    grids: list[Grid]

    @property
    def rows(self) -> int:
        return len(self.latents)


class Rig:
    """One device and the modules on it, made when a section first needs them."""

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
        """Return another, unmodified transformer with the same weights."""
        if self._transformer is None:
            torch.manual_seed(0)
            self._transformer = self._made(QwenImageTransformer2DModel, self.scale.transformer)
        with torch.inference_mode(False), torch.device("meta"):
            other = QwenImageTransformer2DModel(**self.scale.transformer)
            other.load_state_dict(self._transformer.state_dict(), assign=True)
        # its tables of angles are not weights
        other.pos_embed = self._transformer.pos_embed
        return other.eval().requires_grad_(False)

    def backend(self) -> TorchBackend:
        return TorchBackend(self.share())

    @cached_property
    def autoencoder(self) -> AutoencoderKLQwenImage:
        return autoencoder.flatten_time(self._made(AutoencoderKLQwenImage, self.scale.autoencoder))

    @cached_property
    def peak(self) -> float:
        """The speed of products of square matrices in the model's type, in operations a second."""
        size = self.scale.matrix
        one, other = (torch.randn(size, size, device=self.device, dtype=self.dtype) for _ in range(2))
        return 2 * size**3 / middle(self.seconds({"product": lambda: one @ other}, 10)["product"])

    def release(self) -> None:
        """Drop the rig's own references to the weights, so that only modules that share them hold them."""
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
        """Return the inputs for `batch` guided pictures: twice as many rows, with prompts of several lengths."""
        grid = (side // TILE, side // TILE)
        latents = torch.randn(2 * batch, grid[0] * grid[1], 64, device=self.device)
        texts = [self.text(PROMPT_TOKENS[row % len(PROMPT_TOKENS)]) for row in range(batch)]
        texts += [self.text(EMPTY_TOKENS)] * batch
        return Inputs(latents, torch.full((2 * batch,), 0.5, device=self.device), texts, [grid])

    def operations(self, inputs: Inputs) -> float:
        """Return the floating-point operations of an unpadded forward: the blocks' products, attention included."""
        width = self.inner_width
        image = inputs.latents.shape[1]
        tokens = [image + len(text) for text in inputs.texts]
        # each token passes 12 width² weights a block; each pair of tokens costs 2 products of 2 · width operations
        blocks = int(self.scale.transformer.get("num_layers", 60))
        return blocks * sum(24 * width**2 * each + 4 * width * each**2 for each in tokens)

    @property
    def inner_width(self) -> int:
        heads = self.scale.transformer.get("num_attention_heads", 24)
        return int(heads * self.scale.transformer.get("attention_head_dim", 128))

    def synchronize(self) -> None:
        if self.on_gpu:
            torch.cuda.synchronize(self.device)

    def seconds(self, acts: Mapping[str, Callable[[], object]], rounds: int | None = None) -> dict[str, list[float]]:
        """Time each act, round by round in turns, after one of each to warm up; return the seconds."""
        times: dict[str, list[float]] = {name: [] for name in acts}
        for index in range((rounds or self.scale.rounds) + 1):
            for name, act in acts.items():
                self.synchronize()
                begun = time.perf_counter()
                act()
                self.synchronize()
                if index:
                    times[name].append(time.perf_counter() - begun)
        return times

    def empty(self) -> None:
        """Free cached memory, and count the peak of memory from here."""
        gc.collect()
        if self.on_gpu:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)

    def peak_memory(self) -> Row:
        """Return the peak of tensors' memory since `empty` in GiB, weights included; on a CPU it is unknown."""
        if not self.on_gpu:
            return {}
        return {"peak GiB": round(torch.cuda.max_memory_allocated(self.device) / 2**30, 1)}


class RandomModel(QwenImage):
    """The rig's parts as a model for an engine; prompts become random numbers, always the same for each."""

    def __init__(self, rig: Rig) -> None:
        self.device = rig.device
        self.transformer = rig.share()
        self.sampler_config = SAMPLER
        self.channels = 64
        self._autoencoder = rig.autoencoder
        self._width = rig.width

    def encode(self, prompt: str) -> torch.Tensor:
        seed = zlib.crc32(prompt.encode())
        tokens = PROMPT_TOKENS[seed % len(PROMPT_TOKENS)] if prompt else EMPTY_TOKENS
        text = torch.randn(tokens, self._width, generator=torch.Generator().manual_seed(seed))
        return text.to(self.device, self.transformer.dtype)


def load(rig: Rig) -> Callable[[ModelCard, torch.device], QwenImage]:
    """Return the function by which an engine loads the rig's model."""
    return lambda card, device: RandomModel(rig)


def request(side: int, steps: int, seed: int, **changes: Any) -> Request:
    values = {"width": side, "height": side, "steps": steps, "guidance_scale": 4.0, "seed": seed} | changes
    return Request(f"picture {seed}", **values)


def middle(times: Sequence[float]) -> float:
    return statistics.median(times)


def ratios(ones: Sequence[float], others: Sequence[float]) -> float:
    """Return the median of the ratios of neighbours."""
    return round(middle([one / other for one, other in zip(ones, others, strict=True)]), 3)
