"""Plans for ONNX Runtime: the exported graphs themselves, run on the processor."""

from __future__ import annotations

from collections.abc import Mapping

import onnxruntime
import torch

from inference.errors import PlanUnavailable
from inference.plans import graph
from inference.plans.plan import Plan
from inference.plans.profiles import Profile

LIBRARY = "onnxruntime"
VERSION = str(onnxruntime.__version__)
# the processor's kernels know no bf16
TYPES = {"fp32": torch.float32, "fp16": torch.float16}
PROVIDERS = ["CPUExecutionProvider"]
_SILENT = 3


class OnnxExecutor:
    """A plan in ONNX Runtime, with as many threads as torch has at that moment."""

    name = "onnx"
    device = torch.device("cpu")

    def __init__(self, plan: Plan) -> None:
        """Load a plan. Raises PlanUnavailable if ONNX Runtime cannot."""
        self.dtype = TYPES[plan.about.precision]
        self.profiles = plan.about.profiles
        self._plan = plan
        # a sum that more threads share may end in another last bit, so `deterministic` needs sessions with one
        self._sessions: dict[int, dict[str, onnxruntime.InferenceSession]] = {}
        self._current  # noqa: B018 - what cannot be loaded is told now

    def run(self, part: str, inputs: Mapping[str, torch.Tensor], profile: Profile) -> dict[str, torch.Tensor]:
        session = self._current[part]
        names = [output.name for output in session.get_outputs()]
        values = session.run(names, {name: tensor.numpy() for name, tensor in inputs.items()})
        return {name: torch.from_numpy(value) for name, value in zip(names, values, strict=True)}

    def synchronize(self) -> None:
        pass

    @property
    def _current(self) -> dict[str, onnxruntime.InferenceSession]:
        threads = torch.get_num_threads()
        if threads not in self._sessions:
            self._sessions[threads] = {part: self._session(part, threads) for part in graph.PARTS}
        return self._sessions[threads]

    def _session(self, part: str, threads: int) -> onnxruntime.InferenceSession:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = _SILENT
        path = self._plan.file(part)
        try:
            return onnxruntime.InferenceSession(str(path), options, providers=PROVIDERS)
        except Exception as error:  # its exceptions have no common base
            raise PlanUnavailable(f"ONNX Runtime cannot load {path}: {error}") from error
