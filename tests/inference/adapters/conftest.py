"""Adapters made by PEFT for the house model's transformer, and PEFT's own forward with them as the oracle."""

import random
import threading
from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import cache
from pathlib import Path
from shutil import copyfile

import pytest
import torch
from diffusers import QwenImageTransformer2DModel
from peft import LoraConfig, get_peft_model_state_dict
from safetensors.torch import save_file

from inference.adapters import files
from inference.adapters.layers import Layers
from inference.adapters.weights import Adapter, Row
from inference.models import catalog
from inference.models.transformer import make_rows_independent

# the layers that diffusers' own training scripts change, and all linear layers
ATTENTION = ["to_k", "to_q", "to_v", "to_out.0"]
EVERYTHING = "all-linear"
IMAGE_TOKENS, TEXT_TOKENS, TEXT_WIDTH, CHANNELS = 16, 8, 128, 32

SECONDS = 30

Make = Callable[..., Path]


class House:
    """The house model's transformer with linear layers that take adapters."""

    def __init__(self, transformer: QwenImageTransformer2DModel) -> None:
        self.transformer = make_rows_independent(transformer)
        self.layers = Layers(transformer)

    def read(self, path: Path) -> Adapter:
        return files.read(path, self.layers.sizes, self.layers.dtype)

    def velocity(self, rows: list[Row], seeds: list[int] | None = None) -> torch.Tensor:
        """Run one forward in which each row has its own adapters and input."""
        with self.layers.given(rows):
            return forward(self.transformer, list(range(len(rows))) if seeds is None else seeds)


@torch.inference_mode()
def forward(transformer: QwenImageTransformer2DModel, seeds: list[int]) -> torch.Tensor:
    """Return the velocities of one row for each seed."""
    dtype = transformer.dtype
    latents, texts = [], []
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        latents.append(torch.randn(IMAGE_TOKENS, CHANNELS, generator=generator))
        texts.append(torch.randn(TEXT_TOKENS, TEXT_WIDTH, generator=generator))
    return transformer(
        hidden_states=torch.stack(latents).to(dtype),
        timestep=torch.tensor([0.2 + 0.7 / (1 + seed) for seed in seeds]).to(dtype),
        encoder_hidden_states=torch.stack(texts).to(dtype),
        img_shapes=[[(1, 4, 4)]] * len(seeds),
        attention_kwargs={"text_lengths": [TEXT_TOKENS] * len(seeds)},
        return_dict=False,
    )[0].float()


@cache
def _loaded(dtype: torch.dtype) -> QwenImageTransformer2DModel:
    return QwenImageTransformer2DModel.from_pretrained(catalog.card().path, subfolder="transformer", torch_dtype=dtype)


def load(dtype: torch.dtype = torch.float32) -> QwenImageTransformer2DModel:
    """Return a copy of the transformer, which a test may change."""
    return deepcopy(_loaded(dtype))


@pytest.fixture(scope="session")
def house() -> House:
    return House(load())


@pytest.fixture
def oracle() -> Iterator[QwenImageTransformer2DModel]:
    """Load the same transformer for PEFT to change."""
    return make_rows_independent(load())


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Write an adapter as diffusers does, and return its path. Each is written once: its name is its seed."""
    folder = tmp_path_factory.mktemp("drawn")
    bare = QwenImageTransformer2DModel.from_config(
        QwenImageTransformer2DModel.load_config(catalog.card().path, subfolder="transformer")
    )

    @cache
    def write(name: str, rank: int, targets: tuple[str, ...] | str, alpha: float | None, dtype: torch.dtype) -> Path:
        with torch.random.fork_rng():
            torch.manual_seed(random.Random(name).randrange(2**31))
            modules = targets if isinstance(targets, str) else list(targets)
            config = LoraConfig(r=rank, lora_alpha=alpha or rank, target_modules=modules, init_lora_weights=False)
            bare.add_adapter(config, name)
            factors = get_peft_model_state_dict(bare, adapter_name=name)
            bare.delete_adapters(name)
        path = folder / f"{len(list(folder.iterdir()))}.safetensors"
        alphas = {} if alpha is None else {_layer(key): torch.tensor(alpha) for key in factors}
        named = {f"transformer.{key}": value for key, value in factors.items()}
        named |= {f"transformer.{layer}.alpha": value for layer, value in alphas.items()}
        save_file({key: value.to(dtype).contiguous() for key, value in named.items()}, path)
        return path

    return write


@pytest.fixture
def make(drawn: Make, tmp_path: Path) -> Make:
    """Return the path of an adapter that a test may change. Its factors are large enough to change pictures."""

    def copy(
        name: str = "adapter",
        rank: int = 16,
        targets: list[str] | str = EVERYTHING,
        alpha: float | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Path:
        wanted = targets if isinstance(targets, str) else tuple(targets)
        return Path(copyfile(drawn(name, rank, wanted, alpha, dtype), tmp_path / f"{name}.safetensors"))

    return copy


def _layer(key: str) -> str:
    return key.partition(".lora_")[0]


def wait_until(condition: Callable[[], bool]) -> None:
    pause = threading.Event()
    for _ in range(SECONDS * 1000):
        if condition():
            return
        pause.wait(0.001)
    raise AssertionError("it did not come to that")
