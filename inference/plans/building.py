"""Builds plans ahead of their use: exports a model's graphs, and compiles them for the library that is to run them."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from diffusers import QwenImageTransformer2DModel

from inference.card import ModelCard
from inference.errors import ModelUnavailable, PlanUnavailable
from inference.plans import export, graph, onnx, plan, tensorrt
from inference.plans.plan import About, Plan
from inference.plans.profiles import Profile

Tell = Callable[[str], None]


class Wanted(NamedTuple):
    """What to build: for which library, in which precision, for which sizes and compute capabilities."""

    library: str
    precision: str
    profiles: tuple[Profile, ...]
    gpus: tuple[str, ...] = ()


def build(card: ModelCard, root: Path, wanted: Wanted, tell: Tell = lambda _: None) -> Plan:
    """Build a plan, which takes the place of a former one only when it is whole.

    Raises PlanUnavailable, and ModelUnavailable if the model cannot be loaded.
    """
    folder = plan.place(root, card, wanted.library, wanted.precision)
    with plan.writing(folder, _about(card, wanted)) as new:
        if wanted.library == onnx.LIBRARY:
            export.export(transformer(card, _type(wanted)), new, tell)
        else:
            # beside the plan: the graphs of a large model do not fit into a small /tmp
            with tempfile.TemporaryDirectory(dir=root, prefix=".graphs.") as graphs:
                export.export(transformer(card, _type(wanted)), Path(graphs), tell)
                _compile(Path(graphs), new, wanted, tell)
    return plan.read(folder)


def _compile(graphs: Path, new: Path, wanted: Wanted, tell: Tell) -> None:
    for part in graph.PARTS:
        tell(f"{wanted.library} compiles {part} for {len(wanted.profiles)} profiles")
        compiled = tensorrt.compile_graph(wanted.library, graphs / f"{part}.onnx", wanted.profiles, wanted.gpus)
        (new / f"{part}.plan").write_bytes(compiled.content)
        size, scratch = len(compiled.content) / 1e6, compiled.scratch_bytes / 1e6
        fused = f"{compiled.fused_attentions} attentions in one kernel each"
        tell(f"{part}: {size:.0f} MB, scratch {scratch:.0f} MB, {fused}")


def transformer(card: ModelCard, dtype: torch.dtype) -> QwenImageTransformer2DModel:
    """Load a model's transformer. Raises ModelUnavailable."""
    try:
        model: QwenImageTransformer2DModel = QwenImageTransformer2DModel.from_pretrained(
            card.path, subfolder="transformer", dtype=dtype
        )
    except (OSError, ValueError) as error:
        raise ModelUnavailable(f"no Qwen-Image model at {card.path}: {error}") from error
    return model


def _about(card: ModelCard, wanted: Wanted) -> About:
    """Raises PlanUnavailable if the library is not there, or does not run the precision."""
    precisions = _types(wanted.library)
    if wanted.precision not in precisions:
        raise PlanUnavailable(f"{wanted.library} runs {', '.join(precisions)}, not {wanted.precision}")
    if wanted.library == onnx.LIBRARY:
        return About(card.name, card.revision, wanted.precision, wanted.library, onnx.VERSION, wanted.profiles)
    version, gpus = tensorrt.version(wanted.library), wanted.gpus or (tensorrt.gpu(),)
    return About(card.name, card.revision, wanted.precision, wanted.library, version, wanted.profiles, gpus)


def _types(library: str) -> dict[str, torch.dtype]:
    return onnx.TYPES if library == onnx.LIBRARY else tensorrt.TYPES


def _type(wanted: Wanted) -> torch.dtype:
    return _types(wanted.library)[wanted.precision]
