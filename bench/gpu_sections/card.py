"""What the card can do at most: products of square matrices, and copies of its own memory."""

from collections.abc import Iterator

import torch

from bench.gpu_sections.rig import Rig, Row, middle


def card(rig: Rig) -> Iterator[Row]:
    """TFLOP/s in the model's type and in 8 bits, GB/s read and written; and what is left of the first when the card
    works for seconds and grows hot, as a server's does."""
    size = rig.scale.matrix
    label = f"products of {size}² in {_name(rig.dtype)}"
    yield {"": label, "TFLOP/s": round(rig.peak / 1e12, 2)}
    count = max(1, int(rig.scale.hot_seconds * rig.peak / (2 * size**3)))
    yield {"": f"{label}, without a pause", "TFLOP/s": round(rig.products(count, rig.scale.rounds) / 1e12, 2)}
    eight = torch.float8_e4m3fn
    one, other = (torch.randn(size, size, device=rig.device).to(eight) for _ in range(2))
    scale = torch.ones((), device=rig.device)

    def product() -> torch.Tensor:
        return torch._scaled_mm(
            one, other.t(), scale_a=scale, scale_b=scale, out_dtype=torch.bfloat16, use_fast_accum=True
        )

    took = middle(rig.seconds({"product": product}, 10)["product"])
    yield {"": f"products of {size}² in {_name(eight)}", "TFLOP/s": round(2 * size**3 / took / 1e12, 2)}
    source = torch.empty(rig.scale.copied_bytes, dtype=torch.uint8, device=rig.device)
    target = torch.empty_like(source)
    took = middle(rig.seconds({"copy": lambda: target.copy_(source)}, 10)["copy"])
    yield {"": "copies", "GB/s": round(2 * rig.scale.copied_bytes / took / 1e9, 1)}


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
