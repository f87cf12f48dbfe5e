"""The forms in which the weights of a model's many layers are kept: as they are, or in 8 or 4 bits, by torchao.

Only weights take another form: each layer's are turned back when it runs, so that what it computes with, adapters
included, is as before. Embeddings, norms and the few layers outside of the blocks stay as they are.
"""

import math
import re
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from inference.errors import ModelUnavailable

PLAIN, INT8, FP8, NF4 = FORMS = ("plain", "int8", "fp8", "nf4")
_IN_BLOCKS = re.compile(r"(blocks|layers)\.\d+\.")
# of 4-bit numbers that share a scale (QLoRA, Dettmers et al. 2023), and the most scales that share one
NF4_BLOCK, NF4_SCALES = 64, 256


class MemoryProfile(NamedTuple):
    """How a model is kept in memory.

    `form` is that of the transformer's and the text encoder's weights. `offload`: the text encoder's weights, as they
    are, stay in the host's memory, and go through the device part by part when a prompt is encoded. `cards`: over how
    many the transformer is split.
    """

    name: str
    form: str = PLAIN
    offload: bool = False
    cards: int = 1

    @property
    def label(self) -> str:
        """What of it changes how long a step takes."""
        return " ".join([*([self.form] * (self.form != PLAIN)), *([f"{self.cards} cards"] * (self.cards > 1))])


UNCHANGED = MemoryProfile(PLAIN)


def keep(module: nn.Module, form: str, device: torch.device | None = None) -> None:
    """Change the weights of the blocks' linear layers to a form, in place, one layer at a time on the device.

    Raises ModelUnavailable if torchao is needed and not there.
    """
    if form == PLAIN:
        return
    for name, layer in module.named_modules():
        if isinstance(layer, nn.Linear) and _IN_BLOCKS.search(name):
            layer.weight = nn.Parameter(_changed(layer.weight.detach().to(device), form), requires_grad=False)


def size(module: nn.Module, form: str) -> int:
    """Return the bytes that a module's weights and buffers take in bf16, and kept in a form."""
    found = 0
    for name, layer in module.named_modules():
        own = {
            each: tensor.numel()
            for each, tensor in (*layer._parameters.items(), *layer._buffers.items())
            if tensor is not None
        }
        if form != PLAIN and isinstance(layer, nn.Linear) and _IN_BLOCKS.search(name):
            found += _kept_size(*layer.weight.shape, form)
            own.pop("weight")
        found += sum(own.values()) * torch.bfloat16.itemsize
    return found


def parts(tensor: torch.Tensor) -> list[torch.Tensor]:
    """Return the tensors that one in another form consists of; of any other, itself."""
    if not is_traceable_wrapper_subclass(tensor):
        return [tensor]
    return [part for name in tensor.__tensor_flatten__()[0] for part in parts(getattr(tensor, name))]


def _changed(weight: torch.Tensor, form: str) -> torch.Tensor:
    try:
        from torchao import quantization
    except ImportError as error:
        raise ModelUnavailable(f"weights in {form} need torchao: pip install 'kiln[forms]'") from error
    if form == NF4:
        changed: torch.Tensor = quantization.to_nf4(
            weight, NF4_BLOCK, math.gcd(weight.numel() // NF4_BLOCK, NF4_SCALES)
        )
        return changed
    config = {INT8: quantization.Int8WeightOnlyConfig, FP8: quantization.Float8WeightOnlyConfig}[form]()
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    layer.weight = nn.Parameter(weight, requires_grad=False)
    quantization.quantize_(layer, config)
    return layer.weight


@lru_cache(maxsize=256)
def _kept_size(outputs: int, inputs: int, form: str) -> int:
    weight = torch.empty(outputs, inputs, dtype=torch.bfloat16, device="meta")
    return sum(each.nbytes for each in parts(_changed(weight, form)))
