"""Plans for TensorRT: compiles exported graphs, and runs them on a GPU.

Two libraries serve, which are the same in all that is used here: `tensorrt`, which compiles for the GPU at hand, and
`tensorrt_rtx`, which compiles for any of several, also where there is none. Networks are strongly typed: precision is
that of the graphs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import torch

from inference.errors import PlanUnavailable
from inference.plans import graph
from inference.plans.plan import Plan
from inference.plans.profiles import Profile, Range

LIBRARIES = ("tensorrt", "tensorrt_rtx")
TYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
# of the tensors that go in and out, as the library calls them
_TENSORS = {"FLOAT": torch.float32, "HALF": torch.float16, "BF16": torch.bfloat16, "INT32": torch.int32}
_FUSED = re.compile(r"^Name: \w*_mha_v\d", re.MULTILINE)
_SCRATCH = re.compile(r"Max Scratch Memory: (\d+)")
# what the address of an empty tensor points to; a null is refused
_NOWHERE = 256


class Compiled(NamedTuple):
    """A compiled graph, how many of its attentions are one kernel each (of all profiles together), and the most scratch
    memory that it takes."""

    content: bytes
    fused_attentions: int
    scratch_bytes: int


def library(name: str) -> Any:
    """Return a library's module. Raises PlanUnavailable, with the reason, if it is not there."""
    try:
        return import_module(name)
    except ImportError as error:
        raise PlanUnavailable(f"{name} cannot be loaded: {error}") from error


def version(name: str) -> str:
    """Return the version of a library. Raises PlanUnavailable."""
    return str(library(name).__version__)


def gpu(device: torch.device | None = None) -> str:
    """Return the compute capability of a GPU, such as 8.9. Raises PlanUnavailable if there is none."""
    if not torch.cuda.is_available():
        raise PlanUnavailable(
            "there is no GPU here: name the compute capabilities to build for, which tensorrt_rtx can"
        )
    return ".".join(map(str, torch.cuda.get_device_capability(device)))


def compile_graph(
    name: str,
    path: Path,
    profiles: Sequence[Profile],
    gpus: Sequence[str],
    tell: Callable[[str], None] = lambda _: None,
) -> Compiled:
    """Compile an ONNX file with a library, for the GPU at hand, or with `tensorrt_rtx` for these compute capabilities.

    Raises PlanUnavailable with the library's words.
    """
    trt = library(name)
    log = _log(trt)
    builder = trt.Builder(log)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(str(path)):
        reasons = "; ".join(str(parser.get_error(index)) for index in range(parser.num_errors))
        raise PlanUnavailable(f"{name} cannot read {path}: {reasons}")
    config = builder.create_builder_config()
    # names of kernels, from which it is seen what was fused
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if gpus:
        _choose_gpus(trt, config, gpus)
    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    for profile in profiles:
        config.add_optimization_profile(_optimization(builder, inputs, profile))
    monitor = _monitor(trt, tell)
    config.progress_monitor = monitor
    content = builder.build_serialized_network(network, config)
    if content is None:
        raise PlanUnavailable(f"{name} cannot build {path}: {log.last_error or 'it does not say why'}")
    told = "\n".join(log.lines)
    scratch = max(map(int, _SCRATCH.findall(told)), default=0)
    return Compiled(bytes(content), len(_FUSED.findall(told)), scratch)


class TensorRtExecutor:
    """A plan in TensorRT, on one GPU, in the caller's stream."""

    name = "tensorrt"

    def __init__(self, plan: Plan, device: torch.device) -> None:
        """Load a plan. Raises PlanUnavailable if the library cannot."""
        self.device = device
        self.dtype = TYPES[plan.about.precision]
        self.profiles = plan.about.profiles
        trt = library(plan.about.library)
        self._log = _log(trt)
        self._runtime = trt.Runtime(self._log)
        self._nowhere = torch.empty(_NOWHERE, dtype=torch.uint8, device=device)
        self._engines = {part: self._load(plan.file(part)) for part in graph.PARTS}
        self._contexts: dict[tuple[str, str], Any] = {}
        for part, engine in self._engines.items():
            for index, profile in enumerate(self.profiles):
                context = engine.create_execution_context()
                context.set_optimization_profile_async(index, self._stream)
                self._contexts[part, profile.name] = context
        self._warm_up()

    def run(self, part: str, inputs: Mapping[str, torch.Tensor], profile: Profile) -> dict[str, torch.Tensor]:
        engine, context = self._engines[part], self._contexts[part, profile.name]
        outputs = []
        for index in range(engine.num_io_tensors):
            name = engine.get_tensor_name(index)
            if name not in inputs:
                outputs.append(name)
                continue
            context.set_input_shape(name, tuple(inputs[name].shape))
            context.set_tensor_address(name, inputs[name].data_ptr() or self._nowhere.data_ptr())
        found = {name: self._output(engine, context, name) for name in outputs}
        if not context.execute_async_v3(self._stream):
            raise RuntimeError(f"TensorRT could not run {part}: {self._log.last_error}")
        return found

    def synchronize(self) -> None:
        torch.cuda.current_stream(self.device).synchronize()

    def _warm_up(self) -> None:
        """Run each graph with the smallest, usual and largest sizes, so that memory that is not there is missed now."""
        for part, engine in self._engines.items():
            names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
            types = {name: engine.get_tensor_dtype(name).name for name in names if _is_input(engine, name)}
            for index, profile in enumerate(self.profiles):
                shapes = {name: engine.get_tensor_profile_shape(name, index) for name in types}
                for place in range(len(Range._fields)):
                    inputs = {
                        name: torch.zeros(tuple(shapes[name][place]), dtype=_TENSORS[kind], device=self.device)
                        for name, kind in types.items()
                    }
                    self.run(part, inputs, profile)
                    self.synchronize()

    @property
    def _stream(self) -> int:
        return int(torch.cuda.current_stream(self.device).cuda_stream)

    def _load(self, path: Path) -> Any:
        engine = self._runtime.deserialize_cuda_engine(path.read_bytes())
        if engine is None:
            raise PlanUnavailable(f"{path} cannot be loaded: {self._log.last_error or 'there is no GPU for it'}")
        return engine

    def _output(self, engine: Any, context: Any, name: str) -> torch.Tensor:
        dtype = _TENSORS[engine.get_tensor_dtype(name).name]
        output = torch.empty(tuple(context.get_tensor_shape(name)), dtype=dtype, device=self.device)
        context.set_tensor_address(name, output.data_ptr())
        return output


def _is_input(engine: Any, name: str) -> bool:
    return bool(engine.get_tensor_mode(name).name == "INPUT")


def _optimization(builder: Any, inputs: Sequence[Any], profile: Profile) -> Any:
    made = builder.create_optimization_profile()
    for tensor in inputs:
        shapes = [_shape(tensor, profile, place) for place in Range._fields]
        made.set_shape(tensor.name, *shapes)
    return made


def _shape(tensor: Any, profile: Profile, place: str) -> list[int]:
    sizes = profile.at(place)
    names = (tensor.get_dimension_name(index) for index in range(len(tensor.shape)))
    return [size if size >= 0 else sizes[name] for size, name in zip(tensor.shape, names, strict=True)]


def _choose_gpus(trt: Any, config: Any, gpus: Sequence[str]) -> None:
    if not hasattr(trt, "ComputeCapability"):
        raise PlanUnavailable("tensorrt builds for the GPU at hand; tensorrt_rtx builds for others")
    known = {name: value for name, value in vars(trt.ComputeCapability).items() if re.fullmatch(r"SM\d+", name)}
    config.num_compute_capabilities = len(gpus)
    for index, gpu in enumerate(gpus):
        if (name := f"SM{gpu.replace('.', '')}") not in known:
            can = ", ".join(f"{each[2:-1]}.{each[-1]}" for each in sorted(known, key=lambda each: int(each[2:])))
            raise PlanUnavailable(f"tensorrt_rtx builds for compute capabilities {can}, not {gpu}")
        config.set_compute_capability(known[name], index)


def _log(trt: Any) -> Any:
    """Return a logger that keeps what the library says."""

    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.lines: list[str] = []
            self.last_error = ""

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                self.last_error = message
            if _SCRATCH.search(message) or _FUSED.search(message):
                self.lines.append(message)

    return Log()


def _monitor(trt: Any, tell: Callable[[str], None]) -> Any:
    """Return what tells the library's outermost phases."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            if parent is None:
                tell(phase)

        def step_complete(self, phase: str, step: int) -> bool:
            return True

        def phase_finish(self, phase: str) -> None:
            pass

    return Monitor()
