"""The card's limits: products of square matrices, and copies within its memory."""

from collections.abc import Iterator

import torch

from bench.gpu_sections.rig import Rig, Row, middle


def card(rig: Rig) -> Iterator[Row]:
    """Measure TFLOP/s in the model's type and in 8 bits, and GB/s read and written."""
    yield {"": f"products of {rig.scale.matrix}² in {_name(rig.dtype)}", "TFLOP/s": round(rig.peak / 1e12, 2)}
    size = rig.scale.matrix
    eight = torch.float8_e4m3fn
    one, other = (torch.randn(size, size, device=rig.device).to(eight) for _ in range(2))
    scale = torch.ones((), device=rig.device)

    def product() -> torch.Tensor:
        return torch._scaled_mm(one, other.t(), scale_a=scale, scale_b=scale, out_dtype=torch.bfloat16)

    took = middle(rig.seconds({"product": product}, 10)["product"])
    yield {"": f"products of {size}² in {_name(eight)}", "TFLOP/s": round(2 * size**3 / took / 1e12, 2)}
    source = torch.empty(rig.scale.copied_bytes, dtype=torch.uint8, device=rig.device)
    target = torch.empty_like(source)
    took = middle(rig.seconds({"copy": lambda: target.copy_(source)}, 10)["copy"])
    yield {"": "copies", "GB/s": round(2 * rig.scale.copied_bytes / took / 1e9, 1)}


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
