"""Forwards of the transformer: as Kiln's backend runs them, as diffusers does, and in ways that may be faster.

One step of one guided picture is two rows of a forward. All variants in a table share the weights and take turns.
"""

import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache, partial
from itertools import product

import torch
from diffusers import QwenImageTransformer2DModel
from torch import nn
from torch.nn import functional
from torch.profiler import ProfilerActivity, profile

from bench.gpu_sections.rig import Inputs, Rig, Row, middle, ratios
from inference.backends.pytorch import TEXT_BUCKETS, TorchBackend
from inference.models import transformer as rows

EIGHT_BITS = torch.float8_e4m3fn
LARGEST = 448.0  # of its numbers
ATTENTION = re.compile(r"flash|fmha|attention|sdpa", re.IGNORECASE)


@torch.inference_mode()
def transformer(rig: Rig) -> Iterator[Row]:
    """Measure both sizes and every batch: Kiln's backend, the same with a mask for the text's padding, diffusers'
    transformer on the same rows with nothing padded (raw), and as its pipeline calls it, prompts and negative prompts
    in separate forwards."""
    backend, plain = rig.backend(), rig.share()
    for side, batch in product((rig.scale.small, rig.scale.large), rig.scale.batches):
        rig.empty()
        inputs = rig.inputs(side, batch)
        acts = {
            "kiln": forward(backend, inputs),
            "masked": masked(forward(backend, inputs)),
            "raw": partial(raw, plain, inputs),
            "diffusers": partial(as_the_pipeline, plain, inputs),
        }
        times = rig.seconds(acts)
        yield {
            "": f"{side}² · batch {batch}",
            **{f"{name} ms": round(1000 * middle(took), 1) for name, took in times.items()},
            "pictures' steps/s": round(batch / middle(times["kiln"]), 2),
            "of the peak": round(rig.operations(inputs) / middle(times["kiln"]) / rig.peak, 3),
            "× masked": ratios(times["masked"], times["kiln"]),
            "× diffusers": ratios(times["diffusers"], times["kiln"]),
            **rig.peak_memory(),
        }
    inputs = rig.inputs(rig.scale.small, 1)
    for name, act in (("kiln", forward(backend, inputs)), ("masked", masked(forward(backend, inputs)))):
        yield {"": f"attention kernels, {name}", "kernels": attention_kernels(rig, act)}


@torch.inference_mode()
def graphs(rig: Rig) -> Iterator[Row]:
    """Measure the backend's forward replayed from a CUDA graph, beside the same forward called normally."""
    backend = rig.backend()
    for side, batch in ((rig.scale.small, 1), (rig.scale.large, 1), (rig.scale.small, rig.scale.batches[-1])):
        rig.empty()
        act = forward(backend, rig.inputs(side, batch))
        times = rig.seconds({"eager": act, "graph": recorded(act) if rig.on_gpu else act})
        row: Row = {"": f"{side}² · batch {batch}", "eager ms": round(1000 * middle(times["eager"]), 1)}
        if rig.on_gpu:
            row |= {"graph ms": round(1000 * middle(times["graph"]), 1)}
            row |= {"× eager": ratios(times["eager"], times["graph"])}
        yield row | rig.peak_memory()


@torch.inference_mode()
def compiled(rig: Rig) -> Iterator[Row]:
    """Measure blocks through torch.compile beside eager ones, and the first call, which compiles."""
    eager, backend = rig.backend(), rig.backend()
    compile_blocks(rig, backend)
    small, large = rig.scale.small, rig.scale.large
    for side, batch in ((small, 1), (large, 1), (small, rig.scale.batches[-1]), (large, 2)):
        rig.empty()
        inputs = rig.inputs(side, batch)
        begun = time.perf_counter()
        forward(backend, inputs)()
        rig.synchronize()
        first = time.perf_counter() - begun
        times = rig.seconds({"eager": forward(eager, inputs), "compiled": forward(backend, inputs)})
        yield {
            "": f"{side}² · batch {batch}",
            **{f"{name} ms": round(1000 * middle(took), 1) for name, took in times.items()},
            "× eager": ratios(times["eager"], times["compiled"]),
            "first call s": round(first, 1),
            **rig.peak_memory(),
        }


@torch.inference_mode()
def eight_bits(rig: Rig) -> Iterator[Row]:
    """Measure the blocks' linear layers in 8 bits, weights and inputs; converts them in place, so this comes last."""
    backend = rig.backend()
    rig.release()
    shapes = [(rig.scale.small, rig.scale.batches[-1]), (rig.scale.large, 1), (rig.scale.small, 1)]
    inputs = {shape: rig.inputs(*shape) for shape in shapes}
    before = {shape: rig.seconds({"16": forward(backend, each)})["16"] for shape, each in inputs.items()}
    exact = {shape: forward(backend, each)() for shape, each in inputs.items()}
    rig.empty()
    convert(backend.transformer.transformer_blocks)
    for name in ("eager", "compiled"):
        if name == "compiled":
            compile_blocks(rig, backend)
        for shape, each in inputs.items():
            took = rig.seconds({"8": forward(backend, each)})["8"]
            error = (forward(backend, each)() - exact[shape]).square().mean().sqrt() / exact[
                shape
            ].square().mean().sqrt()
            yield {
                "": f"{shape[0]}² · batch {shape[1]} · {name}",
                "16 bits, eager ms": round(1000 * middle(before[shape]), 1),
                "8 bits ms": round(1000 * middle(took), 1),
                "× 16 bits": round(middle(before[shape]) / middle(took), 3),
                "error, of the velocity": round(error.item(), 4),
                **rig.peak_memory(),
            }


def forward(backend: TorchBackend, inputs: Inputs) -> Callable[[], torch.Tensor]:
    return partial(backend.velocity, *inputs, [()] * inputs.rows)


def masked(act: Callable[[], torch.Tensor]) -> Callable[[], torch.Tensor]:
    """Run the forward with all rows in one call of attention and a mask for the padding of their texts."""

    def run() -> torch.Tensor:
        with _attending(_attend_masked):
            return act()

    return run


def raw(plain: QwenImageTransformer2DModel, inputs: Inputs) -> torch.Tensor:
    """Run diffusers' forward of all rows, every text as long as the longest, so that there is nothing to mask."""
    longest = next(size for size in TEXT_BUCKETS if size >= max(map(len, inputs.texts)))
    texts = [functional.pad(text, (0, 0, 0, longest - len(text)), value=0.5) for text in inputs.texts]
    return _plain(plain, inputs.latents, inputs, torch.stack(texts))


def as_the_pipeline(plain: QwenImageTransformer2DModel, inputs: Inputs) -> None:
    """Run two forwards of as many pictures of one prompt, as diffusers' pipeline does for several at once."""
    count = inputs.rows // 2
    for text, latents in zip((inputs.texts[0], inputs.texts[-1]), inputs.latents.chunk(2), strict=True):
        _plain(plain, latents, inputs, text.expand(count, -1, -1))


def _plain(
    plain: QwenImageTransformer2DModel, latents: torch.Tensor, inputs: Inputs, texts: torch.Tensor
) -> torch.Tensor:
    velocity: torch.Tensor = plain(
        hidden_states=latents.to(texts.dtype),
        timestep=inputs.sigmas[: len(latents)].to(texts.dtype),
        encoder_hidden_states=texts,
        img_shapes=[[(1, *grid) for grid in inputs.grids]] * len(latents),
        return_dict=False,
    )[0]
    return velocity


@contextmanager
def _attending(attend: Callable[..., torch.Tensor]) -> Iterator[None]:
    before, rows.attend = rows.attend, attend
    try:
        yield
    finally:
        rows.attend = before


def _attend_masked(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, lengths: Sequence[int]) -> torch.Tensor:
    mask = _mask(tuple(lengths), query.shape[1], query.dtype, query.device)
    query, key, value = (each.transpose(1, 2) for each in (query, key, value))
    return functional.scaled_dot_product_attention(query, key, value, attn_mask=mask).transpose(1, 2)


@lru_cache(maxsize=1)  # one mask for all blocks of a forward
def _mask(lengths: tuple[int, ...], tokens: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    mask = torch.zeros(len(lengths), 1, 1, tokens, dtype=dtype, device=device)
    for row, length in enumerate(lengths):
        mask[row, ..., length:] = float("-inf")
    return mask


def attention_kernels(rig: Rig, act: Callable[[], object]) -> str:
    """Return the names of the device's kernels for attention; on a CPU, of torch's operators."""
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if rig.on_gpu else [])]
    with profile(activities=activities) as seen:
        act()
        rig.synchronize()
    names = {event.key for event in seen.key_averages() if ATTENTION.search(event.key)}
    kernels = {name for name in names if not name.startswith(("aten::", "cuda"))} or names
    return (
        ", ".join(sorted({re.split(r"[<(]", name.removeprefix("void "))[0][-60:] for name in kernels})) or "none named"
    )


def recorded(act: Callable[[], torch.Tensor]) -> Callable[[], None]:
    """Record what `act` does on the device as a graph, after a run on a stream of its own, as torch requires."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            act()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        kept = act()

    def play() -> None:
        assert kept is not None
        graph.replay()

    return play


def compile_blocks(rig: Rig, backend: TorchBackend) -> None:
    """Have each block compiled for each new shape, at its first call."""
    torch.compiler.reset()
    for block in backend.transformer.transformer_blocks:
        # on a processor this would need a C++ compiler, so there it only shows that everything can be traced
        block.compile(backend="inductor" if rig.on_gpu else "eager", fullgraph=True, dynamic=False)


class EightBitLinear(nn.Module):
    """A linear layer y = xWᵀ + b with both factors in 8 bits, and a scale for each row of x and of W."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        scale = _scale(linear.weight)
        self.weight = nn.Parameter((linear.weight.float() / scale).to(EIGHT_BITS), requires_grad=False)
        self.scale = nn.Parameter(scale.t().contiguous(), requires_grad=False)
        self.bias = linear.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.flatten(0, -2)
        scale = _scale(flat)
        y = torch._scaled_mm(
            (flat / scale).to(EIGHT_BITS),
            self.weight.t(),
            scale_a=scale,
            scale_b=self.scale,
            out_dtype=torch.bfloat16,
        )
        y = y.to(x.dtype) if self.bias is None else y.to(x.dtype) + self.bias
        return y.unflatten(0, x.shape[:-1])


def _scale(matrix: torch.Tensor) -> torch.Tensor:
    """Return the scales [rows, 1], 32 bits, that map each row's largest number to the type's largest."""
    return (matrix.float().abs().amax(1, keepdim=True) / LARGEST).clamp_min(1e-12)


def convert(blocks: nn.Module) -> None:
    """Replace the linear layers one after another, so that old weights are freed as new ones are made."""
    for parent in list(blocks.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, nn.Linear):
                setattr(parent, name, EightBitLinear(layer))
