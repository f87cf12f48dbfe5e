"""Builds plans ahead of their use: exports a model's graphs, and compiles them for the library that is to run them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from diffusers import QwenImageTransformer2DModel

from inference.card import ModelCard
from inference.errors import ModelUnavailable
from inference.plans import export, onnx, plan
from inference.plans.plan import About, Plan, PlanUnavailable
from inference.plans.profiles import Profile

TYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16, "int8": torch.float32}

Tell = Callable[[str], None]


def build_onnx(card: ModelCard, root: Path, precision: str, profiles: Sequence[Profile], tell: Tell) -> Plan:
    """Write a plan for ONNX Runtime. Raises PlanUnavailable, and ModelUnavailable if the model cannot be loaded."""
    if precision not in onnx.TYPES:
        raise PlanUnavailable(f"onnx runs {', '.join(onnx.TYPES)}, not {precision}")
    about = About(card.name, card.revision, precision, onnx.LIBRARY, onnx.VERSION, tuple(profiles))
    folder = plan.place(root, card, onnx.LIBRARY, precision)
    with plan.writing(folder, about) as new:
        export.export(transformer(card, precision), new, tell)
    return plan.read(folder)


def transformer(card: ModelCard, precision: str) -> QwenImageTransformer2DModel:
    """Load a model's transformer in the type of a precision. Raises ModelUnavailable."""
    try:
        model: QwenImageTransformer2DModel = QwenImageTransformer2DModel.from_pretrained(
            card.path, subfolder="transformer", dtype=TYPES[precision]
        )
    except (OSError, ValueError) as error:
        raise ModelUnavailable(f"no Qwen-Image model at {card.path}: {error}") from error
    return model
