"""Reads an adapter from an untrusted safetensors file: its header is checked before any weight is read, and nothing in
it is executed. docs/adapters.md lists the formats.

Factors are multiplied by alpha / rank. Alpha comes from a tensor, else from the configuration that diffusers writes to
the header and PEFT to a file beside it; if neither has one, it is the rank. Whatever else changes the arithmetic is
refused by name.
"""

import hashlib
import stat
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch

from inference.adapters import names, tensors
from inference.adapters.configuration import Configuration, finite
from inference.adapters.names import Contents, Factor, Tensors
from inference.adapters.refusals import require, short
from inference.adapters.tensors import FLOATS, INTEGERS, TensorFile
from inference.adapters.weights import Adapter, Shape
from inference.errors import AdapterUnavailable

MAX_RANK = 256
MAX_CONFIGURATION_BYTES = 1024 * 1024
# two changes of a file that are further apart than this have different times
TICK_SECONDS = 0.02
_CONFIGURATION = "adapter_config.json"
_TYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
}


class Version(NamedTuple):
    """A file in its present version; once anybody writes to it or replaces it, it is another one."""

    device: int
    inode: int
    size: int
    modified: int
    changed: int


class Identity(NamedTuple):
    """An adapter as it is now: its file, and the configuration beside it, if there is one."""

    path: Path
    weights: Version
    configuration: Version | None


def read(path: Path, sizes: Mapping[str, tuple[int, int]], dtype: torch.dtype, most: int | None = None) -> Adapter:
    """Read the adapter in a file into CPU memory; `sizes` are the in and out features of the model's linear layers.

    Raises AdapterUnavailable if there is no such file, or it is not safetensors, too large, not a LoRA, not for this
    model, not finite, or changes meanwhile; also if the adapter takes more than `most` bytes.
    """
    with _explained(path):
        before = _settled(path)
        with tensors.opened(path, _largest(sizes)) as file:
            adapter = _read(file, path, sizes, dtype, most)
        require(identify(path) == before, "the file changed while it was read")
        return adapter


def identify(path: Path) -> Identity:
    """Return which adapter a file is now. Raises AdapterUnavailable if there is no such file."""
    with _explained(path):
        weights = _version(path)
        require(weights is not None, "not a file")
        assert weights is not None
        try:
            return Identity(path, weights, _version(path.with_name(_CONFIGURATION)))
        except FileNotFoundError:
            return Identity(path, weights, None)


def _version(path: Path) -> Version | None:
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        return None
    return Version(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def _settled(path: Path) -> Identity:
    """Identify a file once any later change would give it another time."""
    identity = identify(path)
    changed = max(version.changed for version in (identity.weights, identity.configuration) if version)
    if 0 <= time.time_ns() - changed < TICK_SECONDS * 1e9:
        time.sleep(TICK_SECONDS)
    return identify(path)


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise AdapterUnavailable(f"there is no adapter {path.name}") from error
    except OSError as error:  # its own message would name folders
        raise AdapterUnavailable(f"adapter {path.name}: {error.strerror or 'cannot be read'}") from error
    except (ValueError, RecursionError) as error:
        raise AdapterUnavailable(f"adapter {path.name}: {error}") from error


def _largest(sizes: Mapping[str, tuple[int, int]]) -> int:
    """Return the size of the largest adapter for the model, in 64 bits."""
    return tensors.MAX_HEADER_BYTES + 8 * MAX_RANK * sum(inputs + outputs for inputs, outputs in sizes.values())


def _read(
    file: TensorFile, path: Path, sizes: Mapping[str, tuple[int, int]], dtype: torch.dtype, most: int | None
) -> Adapter:
    contents = names.sort(file.entries, sizes)
    configuration = _configuration(file, path, contents)
    shapes = {
        layer: _shape(file, layer, found, sizes[layer], configuration) for layer, found in contents.layers.items()
    }
    elements = sum(shape.size for shape in shapes.values())
    nbytes = elements * dtype.itemsize
    require(most is None or nbytes <= most, f"adapters of {nbytes} bytes: there is room for {most} on the device")
    memory = torch.empty(elements, dtype=dtype)
    for layer, factors in Adapter(memory, shapes).factors.items():
        factors.down.copy_(_factor(file, contents.layers[layer].down))
        factors.up.copy_(_factor(file, contents.layers[layer].up).T)
    require(bool(memory.isfinite().all()), f"a weight is not finite in {dtype}")
    return Adapter(memory, shapes, _digest(memory, shapes), _warnings(path, contents))


def _shape(
    file: TensorFile, layer: str, found: Tensors, size: tuple[int, int], configuration: Configuration | None
) -> Shape:
    """Return a layer's shape, all of it from the header but for alpha's value."""
    for factor in (found.down, found.up):
        dtype = file.entries[factor.weight].dtype
        require(dtype in FLOATS, f"{short(factor.weight)} is of type {short(dtype)}, not {', '.join(FLOATS)}")
    down, up = list(file.entries[found.down.weight].shape), list(file.entries[found.up.weight].shape)
    inputs, outputs = size
    fits = len(down) == 2 and len(up) == 2 and [down[1], up[0]] == [inputs, outputs] and down[0] == up[1]
    require(fits, f"{layer} needs factors [rank, {inputs}] and [{outputs}, rank], not {down} and {up}")
    rank = down[0]
    require(1 <= rank <= MAX_RANK, f"{layer} has rank {rank}; ranks from 1 to {MAX_RANK} are supported")
    return Shape(rank, inputs, outputs, _scale(file, found, rank, configuration))


def _scale(file: TensorFile, found: Tensors, rank: int, configuration: Configuration | None) -> float:
    written = None if found.alpha is None else finite(_number(file, found.alpha)) / rank
    configured = None if configuration is None else configuration.scale(found.trained_as, rank)
    if written is None and configured is None and not found.styled_as_peft:
        _check_kohyas_alpha(file, rank)
    agree = written is None or configured is None or abs(written - configured) <= 1e-6 * abs(configured)
    require(agree, f"{short(str(found.alpha))} and the configuration say different things")
    return next((scale for scale in (written, configured) if scale is not None), 1.0)


def _check_kohyas_alpha(file: TensorFile, rank: int) -> None:
    """Check that the trainer had no other alpha than the rank, which it is taken for where no tensor says it."""
    alpha = file.metadata.get("ss_network_alpha", "None")
    try:
        agrees = alpha == "None" or float(alpha) == rank
    except ValueError:
        agrees = False
    require(agrees, f"ss_network_alpha is {short(alpha)}, and no tensor says alpha")


def _configuration(file: TensorFile, path: Path, contents: Contents) -> Configuration | None:
    """Return the configuration in the header, or beside the file if PEFT or diffusers left alpha to it."""
    if (written := file.metadata.get("lora_adapter_metadata")) is not None:
        return Configuration(written)
    if all(found.alpha is not None for found in contents.layers.values()):
        return None
    if not any(found.styled_as_peft for found in contents.layers.values()):
        return None
    try:
        with tensors.open_regular(path.with_name(_CONFIGURATION)) as beside:
            content = beside.read(MAX_CONFIGURATION_BYTES + 1)
    except FileNotFoundError:
        require(not contents.by_peft, f"PEFT made it, and there is no {_CONFIGURATION} beside it")
        return None
    require(len(content) <= MAX_CONFIGURATION_BYTES, f"{_CONFIGURATION} has more than {MAX_CONFIGURATION_BYTES} bytes")
    return Configuration(content.decode())


def _tensor(file: TensorFile, name: str) -> torch.Tensor:
    entry = file.entries[name]
    return torch.frombuffer(file.read(name), dtype=_TYPES[entry.dtype]).view(entry.shape)


def _factor(file: TensorFile, factor: Factor) -> torch.Tensor:
    weight = _tensor(file, factor.weight)
    return weight if factor.scale is None else weight.float() * finite(_number(file, factor.scale))


def _number(file: TensorFile, name: str) -> float | int:
    entry = file.entries[name]
    require(entry.dtype in FLOATS | INTEGERS, f"{short(name)} is of type {short(entry.dtype)}, and should be a number")
    one = all(length == 1 for length in entry.shape)
    require(one, f"{short(name)} has shape {list(entry.shape)}, and should be one number")
    return _tensor(file, name).item()


def _digest(memory: torch.Tensor, shapes: Mapping[str, Shape]) -> str:
    digest = hashlib.sha256(repr((memory.dtype, sorted(shapes.items()))).encode())
    digest.update(memory.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _warnings(path: Path, contents: Contents) -> tuple[str, ...]:
    if not contents.of_text_encoder:
        return ()
    return (f"adapter {path.name}: its changes of the text encoder are ignored",)
