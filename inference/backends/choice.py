"""Which backend runs the transformer: torch, or a plan in ONNX Runtime or TensorRT."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import torch

from inference.backends import split
from inference.backends.base import Backend
from inference.backends.planned import PlannedBackend
from inference.backends.pytorch import TorchBackend
from inference.card import ModelCard
from inference.errors import ModelUnavailable
from inference.models.forms import MemoryProfile
from inference.models.qwen_image import QwenImage
from inference.plans import plan, tensorrt
from inference.plans.executor import Executor


@dataclass(frozen=True)
class Choice:
    """A backend by name; of a plan also in which folder it is looked for, and of which precision it is."""

    name: str = "torch"
    plans: Path = Path(plan.ROOT)
    precision: str = ""

    def __post_init__(self) -> None:
        """Raises ModelUnavailable if there is no such backend or precision."""
        if self.name not in plan.BACKENDS:
            raise ModelUnavailable(f"KILN_BACKEND must be one of {', '.join(plan.BACKENDS)}, not {self.name}")
        if self.precision and self.precision not in plan.PRECISIONS:
            raise ModelUnavailable(f"KILN_PRECISION must be one of {', '.join(plan.PRECISIONS)}, not {self.precision}")

    @property
    def wanted(self) -> str:
        """The precision, by default that of the library's usual device."""
        return self.precision or {"onnx": "fp32"}.get(self.name, "bf16")

    @property
    def label(self) -> str:
        """What step times are kept for."""
        return self.name if self.name == "torch" else f"{self.name} {self.wanted}"


def from_environment(backend: str | None = None) -> Choice:
    """Return what KILN_BACKEND, unless given, KILN_PLANS and KILN_PRECISION say. Raises ModelUnavailable."""
    said = {name: os.environ.get(f"KILN_{name.upper()}", "") for name in ("backend", "plans", "precision")}
    return Choice(backend or said["backend"] or "torch", Path(said["plans"] or plan.ROOT), said["precision"])


def load(choice: Choice, model: QwenImage, card: ModelCard, profile: MemoryProfile) -> Backend:
    """Return the chosen backend of a loaded model. Raises PlanUnavailable, and EngineFault if other cards' are gone."""
    if profile.cards > 1:
        return split.lead(model.transformer, card, profile, model.device)
    in_torch = TorchBackend(model.transformer)
    return in_torch if choice.name == "torch" else PlannedBackend(executor(choice, card, model.device), in_torch)


def executor(choice: Choice, card: ModelCard, device: torch.device) -> Executor:
    """Load the chosen plan of a model. Raises PlanUnavailable."""
    root = choice.plans.expanduser()
    if choice.name == "onnx":
        from inference.plans import onnx  # its library is needed for plans alone

        found = plan.read(plan.place(root, card, onnx.LIBRARY, choice.wanted))
        plan.check(found, card, onnx.LIBRARY, onnx.VERSION, None)
        return onnx.OnnxExecutor(found)
    library = _library(root, card, choice.wanted)
    version, gpu = tensorrt.version(library), tensorrt.gpu(device)
    found = plan.read(plan.place(root, card, library, choice.wanted))
    plan.check(found, card, library, version, gpu)
    return tensorrt.TensorRtExecutor(found, device)


def _library(root: Path, card: ModelCard, precision: str) -> str:
    """Return the library of the plan that is there; if there is none, the one that is to be asked why."""
    built = [name for name in tensorrt.LIBRARIES if plan.place(root, card, name, precision).is_dir()]
    return built[0] if built else tensorrt.LIBRARIES[0]
