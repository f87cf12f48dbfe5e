"""Reads an adapter from an untrusted safetensors file: its header is checked before any weight is read, and nothing in
it is executed.

Names may be those of diffusers, PEFT or kohya's scripts:

    transformer.transformer_blocks.0.attn.to_q.lora_A.weight       another prefix or none, also `lora_A.default`
    transformer_blocks.0.attn.to_q.lora_down.weight · .alpha
    lora_unet_transformer_blocks_0_attn_to_q.lora_down.weight · .alpha

Factors are multiplied by alpha / rank. Alpha comes from a tensor, else from the configuration that diffusers writes to
the header and PEFT to a file beside it; if neither has one, it is the rank.
"""

import json
import math
import re
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open

from inference.adapters.weights import Adapter, Shape
from inference.errors import AdapterUnavailable

MAX_RANK = 128
MAX_HEADER_BYTES = 4 * 1024 * 1024
FLOATS = ("F32", "F16", "BF16")
_PREFIX = re.compile(r"(base_model\.model\.)?(transformer\.|diffusion_model\.)?(?=.)")
_PART = re.compile(r"\.(?:(lora_A|lora_down)|(lora_B|lora_up))(?:\.[\w-]+)?\.weight$|\.(alpha)$")
_CONFIGURATION = "lora_adapter_metadata"


class Identity(NamedTuple):
    """A file in its present version; once it is rewritten, it is another adapter."""

    path: Path
    inode: int
    size: int
    modified: int


class _Names(NamedTuple):
    """The names of one layer's tensors in the file."""

    down: str
    up: str
    alpha: str | None


def read(path: Path, sizes: Mapping[str, tuple[int, int]], dtype: torch.dtype) -> Adapter:
    """Read the adapter in a file into CPU memory; `sizes` are the in and out features of the model's linear layers.

    Raises AdapterUnavailable if there is no such file, or it is not safetensors, too large, not a LoRA, not for this
    model, or not finite.
    """
    with _explained(path):
        _check_size(path, sizes)
        with safe_open(path, "pt") as file:
            names = _sort(file.keys(), sizes)
            configuration = _configuration(path, file.metadata() or {})
            shapes = {
                layer: _shape(file, tensors, layer, sizes[layer], configuration) for layer, tensors in names.items()
            }
            adapter = Adapter(torch.empty(sum(shape.size for shape in shapes.values()), dtype=dtype), shapes)
            for layer, factors in adapter.factors.items():
                factors.down.copy_(file.get_tensor(names[layer].down))
                factors.up.copy_(file.get_tensor(names[layer].up).T)
        _require(bool(adapter.memory.isfinite().all()), f"a weight is not finite in {dtype}")
        return adapter


def identify(path: Path) -> Identity:
    """Return which adapter a file is now. Raises AdapterUnavailable if there is no such file."""
    with _explained(path):
        found = path.stat()
        _require(stat.S_ISREG(found.st_mode), "not a file")
        return Identity(path, found.st_ino, found.st_size, found.st_mtime_ns)


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise AdapterUnavailable(f"there is no adapter {path.name}") from error
    except OSError as error:  # its own message would name folders
        raise AdapterUnavailable(f"adapter {path.name}: {error.strerror or 'cannot be read'}") from error
    except (SafetensorError, ValueError, RecursionError) as error:
        raise AdapterUnavailable(f"adapter {path.name}: {error}") from error


def _check_size(path: Path, sizes: Mapping[str, tuple[int, int]]) -> None:
    """Check that the file is no larger than the largest adapter for this model in 32 bits, and its header not absurdly
    long."""
    with path.open("rb") as file:
        header = int.from_bytes(file.read(8), "little")
        size = file.seek(0, 2)
    _require(size >= 8 and header <= size - 8, "not a safetensors file")
    _require(header <= MAX_HEADER_BYTES, f"the header has more than {MAX_HEADER_BYTES} bytes")
    most = MAX_HEADER_BYTES + 4 * MAX_RANK * sum(inputs + outputs for inputs, outputs in sizes.values())
    _require(size <= most, f"more than {most} bytes")


def _sort(keys: list[str], sizes: Mapping[str, tuple[int, int]]) -> dict[str, _Names]:
    """Sort the tensors' names by layer of the model, in the model's order."""
    layers = {name: name for name in sizes} | {f"lora_unet_{name.replace('.', '_')}": name for name in sizes}
    found: dict[str, dict[str, str]] = {}
    for key in keys:
        part = _PART.search(key)
        _require(part is not None, f"{_short(key)} is not a LoRA weight")
        assert part is not None
        layer = layers.get(_PREFIX.sub("", key[: part.start()], count=1))
        _require(layer is not None, f"the model has no linear layer for {_short(key)}")
        kind = "down" if part[1] else "up" if part[2] else "alpha"
        _require(kind not in found.setdefault(layer or "", {}), f"{_short(key)} is there twice")
        found[layer or ""][kind] = key
    _require(bool(found), "no weights")
    for layer, names in found.items():
        _require({"down", "up"} <= names.keys(), f"{layer} has only one of two factors")
    return {
        layer: _Names(found[layer]["down"], found[layer]["up"], found[layer].get("alpha"))
        for layer in sizes
        if layer in found
    }


def _shape(
    file: Any, names: _Names, layer: str, size: tuple[int, int], configuration: Callable[[str, int], float]
) -> Shape:
    """Return a layer's shape, all of it from the header but for alpha's value."""
    for name in names:
        if name is not None:
            dtype = file.get_slice(name).get_dtype()
            _require(dtype in FLOATS, f"{_short(name)} is of type {dtype}, not {', '.join(FLOATS)}")
    down, up = file.get_slice(names.down).get_shape(), file.get_slice(names.up).get_shape()
    inputs, outputs = size
    fits = len(down) == 2 and len(up) == 2 and [down[1], up[0]] == [inputs, outputs] and down[0] == up[1]
    _require(fits, f"{layer} needs factors [rank, {inputs}] and [{outputs}, rank], not {down} and {up}")
    rank = down[0]
    _require(1 <= rank <= MAX_RANK, f"{layer} has rank {rank}; ranks from 1 to {MAX_RANK} are supported")
    if names.alpha is None:
        return Shape(rank, inputs, outputs, configuration(layer, rank))
    alpha = file.get_slice(names.alpha).get_shape()
    _require(alpha in ([], [1]), f"{_short(names.alpha)} has shape {alpha}, and should be one number")
    return Shape(rank, inputs, outputs, _finite(file.get_tensor(names.alpha).item()) / rank)


def _configuration(path: Path, metadata: Mapping[str, str]) -> Callable[[str, int], float]:
    """Return the configuration's scale as a function of a layer's name and rank."""
    beside = path.with_name("adapter_config.json")
    if _CONFIGURATION in metadata:
        written = metadata[_CONFIGURATION]
    elif path.name == "adapter_model.safetensors" and beside.is_file() and beside.stat().st_size <= MAX_HEADER_BYTES:
        written = beside.read_text()
    else:
        return lambda layer, rank: 1.0
    values = json.loads(written)
    _require(isinstance(values, dict), "the configuration is not a JSON object")
    values = {name.removeprefix("transformer."): value for name, value in values.items()}
    _require(not values.get("use_dora"), "DoRA is not supported, only LoRA")
    patterns = values.get("alpha_pattern") or {}
    _require(isinstance(patterns, dict), "alpha_pattern is not a JSON object")

    def scale(layer: str, rank: int) -> float:
        # patterns are taken as names, never as regular expressions, since the file is not trusted
        written = [alpha for name, alpha in patterns.items() if f".{layer}".endswith(f".{name.removeprefix('^')}")]
        alpha = _finite(written[0] if written else values.get("lora_alpha", rank))
        return alpha / (math.sqrt(rank) if values.get("use_rslora") else rank)

    return scale


def _finite(alpha: Any) -> float:
    _require(isinstance(alpha, int | float) and math.isfinite(alpha), f"alpha is {_short(str(alpha))}")
    return float(alpha)


def _require(condition: bool, otherwise: str) -> None:
    if not condition:
        raise ValueError(otherwise)


def _short(text: str) -> str:
    return repr(text if len(text) <= 100 else f"{text[:100]}…")
