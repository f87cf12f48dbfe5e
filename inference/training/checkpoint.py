"""Safetensors files that are written whole or not at all: a training as it stands, and the adapter that it gave.

A checkpoint is tensors by name, and a JSON object in its metadata. Nothing in it is executed.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save, save_file

from inference.errors import InvalidTraining

_STATE = "kiln_training_state"


def write(path: Path, tensors: Mapping[str, torch.Tensor], state: Mapping[str, Any]) -> None:
    """Write a checkpoint beside the last one and move it there; it is on the disk before this returns."""
    fresh = path.with_name(f"{path.name}.new")
    save_file(_in_memory(tensors), fresh, {_STATE: json.dumps(state)})
    _move(fresh, path)


def read(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Read a checkpoint: its tensors and its state. Raises InvalidTraining if it is none."""
    try:
        with safe_open(path, framework="pt") as file:
            state = json.loads((file.metadata() or {})[_STATE])
            return {name: file.get_tensor(name) for name in file.keys()}, dict(state)  # noqa: SIM118
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise InvalidTraining(f"{path.name} is not the checkpoint of a training") from error


def write_adapter(path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> None:
    """Write an adapter's file; the same weights and metadata give the same bytes."""
    content = save(_in_memory(tensors))
    length = int.from_bytes(content[:8], "little")
    # the library writes metadata in an order that differs from time to time
    header = {"__metadata__": dict(sorted(metadata.items())), **json.loads(content[8 : 8 + length])}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    fresh = path.with_name(f"{path.name}.new")
    with fresh.open("wb") as file:
        file.writelines((len(text).to_bytes(8, "little"), text, memoryview(content)[8 + length :]))
    _move(fresh, path)


def _in_memory(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def _move(fresh: Path, path: Path) -> None:
    with fresh.open("rb") as file:
        os.fsync(file.fileno())
    fresh.replace(path)
