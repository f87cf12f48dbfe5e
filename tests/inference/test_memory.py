"""Memory that ran out is known as such whichever library says so, and nothing else is taken for it."""

import errno
import zlib

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import SafetensorError

from inference import memory
from inference.errors import AdapterUnavailable


def _of(module: str, text: str) -> Exception:
    """Return an error of a library that is not installed."""
    return type("Fail", (Exception,), {"__module__": module})(text)


def _raised(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


RAN_OUT = {
    "torch on a GPU": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    "torch by its other name": torch.cuda.OutOfMemoryError("HIP out of memory. Tried to allocate 20.00 MiB."),
    "torch on a CPU": RuntimeError(
        "[enforce fail at alloc_cpu.cpp:121] data. DefaultCPUAllocator: not enough memory: you tried to allocate 8 b."
    ),
    "torch on another CPU": RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
    "the CUDA runtime": RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be reported later"),
    "the CUDA driver": RuntimeError("CUDA driver error: out of memory"),
    "the CUDA driver by number": RuntimeError("CUDA_ERROR_OUT_OF_MEMORY"),
    "the CUDA runtime by number": RuntimeError("cudaErrorMemoryAllocation"),
    "HIP": RuntimeError("HIP error: out of memory"),
    "HIP by number": RuntimeError("hipErrorOutOfMemory"),
    "MPS": RuntimeError("MPS backend out of memory (MPS allocated: 17.99 GB)"),
    "SYCL": RuntimeError("Native API returns: 39 (UR_RESULT_ERROR_OUT_OF_DEVICE_MEMORY)"),
    "cuBLAS": RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    "cuDNN": RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    "cuDNN 9": RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
    "cuDNN, each of its ways": RuntimeError("FIND was unable to find an engine to execute this computation"),
    "cuDNN, all that it would choose": RuntimeError("GET was unable to find an engine to execute this computation"),
    "cuDNN of old": RuntimeError("Unable to find a valid cuDNN algorithm to run convolution"),
    "cuRAND": RuntimeError("CURAND_STATUS_ALLOCATION_FAILED"),
    "hipBLAS": RuntimeError("HIPBLAS_STATUS_ALLOC_FAILED when calling `hipblasCreate(handle)`"),
    "rocBLAS": RuntimeError("rocblas_status_memory_error"),
    "MIOpen": RuntimeError("MIOpen Error: miopenStatusAllocFailed"),
    "torch's report of it": RuntimeError(
        'NVML_SUCCESS == r INTERNAL ASSERT FAILED at "../c10/cuda/CUDACachingAllocator.cpp":838, please report a bug'
    ),
    "C++": RuntimeError("std::bad_alloc"),
    "Python": MemoryError(),
    "numpy": np._core._exceptions._ArrayMemoryError((1 << 40,), np.dtype(float)),
    "Pillow": OSError("out of memory error when reading image file"),
    "the system": OSError(errno.ENOMEM, "Cannot allocate memory"),
    "a mapping": RuntimeError("unable to mmap 81920 bytes from file <model.safetensors>: Cannot allocate memory (12)"),
    "safetensors": SafetensorError("Error while deserializing header: Cannot allocate memory (os error 12)"),
    "onnxruntime": _of(
        "onnxruntime.capi.onnxruntime_pybind11_state",
        "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Failed to allocate memory for requested buffer of size 99",
    ),
    "onnxruntime with a limit": _of(
        "onnxruntime.capi.onnxruntime_pybind11_state",
        "[ONNXRuntimeError] : 1 : FAIL : Available memory of 100 is smaller than requested bytes of 200",
    ),
    "TensorRT": _of("tensorrt.tensorrt", "IExecutionContext::enqueueV3: Error Code 1: Cuda Runtime (out of memory)"),
    "TensorRT when it builds": RuntimeError("Requested amount of GPU memory (8192 bytes) could not be allocated."),
    "TensorRT by number": _of("tensorrt.tensorrt", "ErrorCode.FAILED_ALLOCATION"),
    "a library around another": _raised(OSError("Unable to load weights"), MemoryError()),
    "our own around theirs": _raised(AdapterUnavailable("adapter x"), OSError(errno.ENOMEM, "Cannot allocate memory")),
}
SOMETHING_ELSE = {
    "shapes": RuntimeError("mat1 and mat2 shapes cannot be multiplied (4096x3072 and 64x3072)"),
    "sizes": RuntimeError("The size of tensor a (64) must match the size of tensor b (63) at dimension 1"),
    "an overflow": RuntimeError("Storage size calculation overflowed with sizes=[9223372036854775807, 2]"),
    "an address": RuntimeError("CUDA error: an illegal memory access was encountered"),
    "out of bounds": RuntimeError("CUDA error: out of bounds memory access"),
    "an assertion": RuntimeError("CUDA error: device-side assert triggered"),
    "a layout": RuntimeError("input must be contiguous in memory"),
    "two devices": RuntimeError("Expected all tensors to be on the same device, but found cuda:0 and cpu!"),
    "cuBLAS that fails": RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx`"),
    "cuDNN that cannot": RuntimeError("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED"),
    "a kernel that does not fit": RuntimeError("out of resource: shared memory, Required: 147456, limit: 101376"),
    "a full disk": OSError(errno.ENOSPC, "No space left on device"),
    "a missing file": FileNotFoundError(errno.ENOENT, "No such file or directory", "out of memory.png"),
    "a picture of that name": OSError("cannot identify image file 'out of memory.png'"),
    "a prompt of that text": ValueError("the prompt 'a robot out of memory' is too long"),
    "a bomb": Image.DecompressionBombError("Image size (400000000 pixels) exceeds limit of 178956970 pixels"),
    "a broken file": SafetensorError("Error while deserializing header: header too large"),
    "a broken stream": zlib.error("Error -3 while decompressing data: incorrect header check"),
    "a missing key": KeyError("out of memory"),
    "one that only came while another was handled": RuntimeError("broken"),
}
SOMETHING_ELSE["one that only came while another was handled"].__context__ = MemoryError()


@pytest.mark.parametrize("error", RAN_OUT.values(), ids=RAN_OUT.keys())
def test_memory_that_ran_out_is_known_as_such(error):
    assert memory.ran_out(error)


@pytest.mark.parametrize("error", SOMETHING_ELSE.values(), ids=SOMETHING_ELSE.keys())
def test_nothing_else_is_taken_for_it(error):
    assert not memory.ran_out(error)


def test_what_this_torch_raises_is_known():
    with pytest.raises(RuntimeError) as raised:
        torch.empty(2**60, dtype=torch.uint8)
    assert memory.ran_out(raised.value)
    with pytest.raises(RuntimeError) as raised:
        torch.ones(2, 3) @ torch.ones(2, 3)
    assert not memory.ran_out(raised.value)


def test_an_error_that_is_its_own_cause_is_no_riddle():
    error = RuntimeError("broken")
    error.__cause__ = error
    assert not memory.ran_out(error)
