"""A training as it stands, in one safetensors file: tensors by name, and in its metadata a JSON object.

It is written beside the last one and moved there, so that one of them is always whole. Nothing in it is executed.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from inference.errors import InvalidTraining

_STATE = "kiln_training_state"


def write(path: Path, tensors: Mapping[str, torch.Tensor], state: Mapping[str, Any]) -> None:
    """Write a checkpoint, whole or not at all, and have it on the disk before this returns."""
    save_whole(path, tensors, {_STATE: json.dumps(state)})


def save_whole(path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file beside `path`, and move it there."""
    fresh = path.with_name(f"{path.name}.new")
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, fresh, dict(metadata))
    with fresh.open("rb") as file:
        os.fsync(file.fileno())
    fresh.replace(path)


def read(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Read a checkpoint: its tensors and its state. Raises InvalidTraining if it is none."""
    try:
        with safe_open(path, framework="pt") as file:
            state = json.loads((file.metadata() or {})[_STATE])
            return {name: file.get_tensor(name) for name in file.keys()}, dict(state)  # noqa: SIM118
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise InvalidTraining(f"{path.name} is not the checkpoint of a training") from error
