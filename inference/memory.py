"""Whether an error means that memory ran out, whichever library raised it, and giving back what such an error holds."""

import errno
import re

import torch
from safetensors import SafetensorError

# libraries whose errors have no common base; torch's, HIP's and torch-TensorRT's are RuntimeErrors
_LIBRARIES = ("onnxruntime", "tensorrt")
_SAYS_SO = re.compile(
    r"out[ _]?of[ _]?((device|host|gpu|system)[ _])?memory"  # CUDA, HIP, MPS, SYCL, also as names of their errors
    r"|(not enough|insufficient) memory"
    r"|(can't|can ?not|could not|failed to|unable to) allocate"  # torch on a CPU, onnxruntime, the system's ENOMEM
    r"|memory[^.]* could not be allocated"  # TensorRT
    r"|available memory of \d+ is smaller than requested"  # onnxruntime with a limit
    r"|memory allocation (of \d+ bytes )?failed"
    r"|alloc(ation)?[ _]?failed|failed_allocation"  # cuBLAS, cuDNN, cuSPARSE, cuRAND, hipBLAS, MIOpen, TensorRT
    r"|ErrorMemoryAllocation|rocblas_status_memory_error"
    r"|bad[ _]alloc"
    # torch tries one of cuDNN's convolutions after another, and keeps from us that each wanted memory
    r"|unable to find an engine to execute this computation|unable to find a valid cuDNN algorithm"
    # raised by torch's allocator while it reports that memory ran out
    r"|NVML_SUCCESS == .* INTERNAL ASSERT FAILED",
    re.IGNORECASE,
)


def ran_out(error: BaseException) -> bool:
    """Return whether an error, or one that it was raised from, means that memory could not be allocated."""
    return any(_means_memory(each) for each in _chain(error))


def let_go(error: BaseException) -> None:
    """Drop an error's frames, which keep alive what its calls had allocated."""
    for each in _chain(error):
        each.__traceback__ = None
        if each.__context__:
            each.__context__.__traceback__ = None


def free() -> None:
    """Give memory that torch holds but does not use back to the device."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _means_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    if isinstance(error, OSError):
        # Pillow's has no number
        return error.errno == errno.ENOMEM or str(error).startswith("out of memory error when ")
    # the text alone would not do: other errors may quote a prompt
    speaks = isinstance(error, RuntimeError | SafetensorError) or type(error).__module__.startswith(_LIBRARIES)
    return speaks and bool(_SAYS_SO.search(str(error)))


def _chain(error: BaseException) -> list[BaseException]:
    chain: list[BaseException] = []
    following: BaseException | None = error
    while following and following not in chain:
        chain.append(following)
        following = following.__cause__
    return chain
