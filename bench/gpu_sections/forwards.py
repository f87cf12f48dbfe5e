"""Forwards of the transformer: as Kiln's backend runs them, as diffusers does, and in ways that may be faster.

One step of one guided picture is two rows of a forward. All contenders of a table share the weights and take turns.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from itertools import product
from unittest import mock

import torch
from diffusers import QwenImageTransformer2DModel
from torch import nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import ProfilerActivity, profile

from bench.gpu_sections.rig import Inputs, Rig, Row, middle, ratios
from inference.backends.pytorch import TEXT_BUCKETS, TorchBackend
from inference.models import transformer as rows

EIGHT_BITS = torch.float8_e4m3fn
LARGEST = 448.0  # of its numbers
ATTENTION = re.compile(r"flash|fmha|attention|sdpa", re.IGNORECASE)


@torch.inference_mode()
def transformer(rig: Rig) -> Iterator[Row]:
    """Both sizes and every batch: Kiln's backend, the same with a mask for the text's padding, diffusers' transformer
    given the same rows with nothing padded (raw), and as its pipeline calls it, prompts and negative ones apart."""
    backend, plain = rig.backend(), rig.share()
    for side, batch in product((rig.scale.small, rig.scale.large), rig.scale.batches):
        rig.empty()
        inputs = rig.inputs(side, batch)
        kiln = forward(backend, inputs)
        velocity = kiln()
        memory = rig.peak_memory()
        difference = apart(masked(kiln)(), velocity)
        acts = {
            "kiln": kiln,
            "masked": masked(kiln),
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
            "masked differs by": difference,
            **memory,
        }


@torch.inference_mode()
def attention(rig: Rig) -> Iterator[Row]:
    """The backend's forward with the kernel of attention that torch chooses and with its flash kernel; and what the
    first forward with texts of new lengths costs: cuDNN, where that is the choice, prepares itself for each shape."""
    backend = rig.backend()
    small, large = rig.scale.small, rig.scale.large
    for side, batch in ((small, 1), (small, rig.scale.batches[-1]), (large, 1)):
        act = forward(backend, rig.inputs(side, batch))
        times = rig.seconds({"torch's choice": act, "flash": flash(act)})
        yield {
            "": f"{side}² · batch {batch}",
            **{f"{name} ms": round(1000 * middle(took), 1) for name, took in times.items()},
            "flash, × torch's choice": ratios(times["torch's choice"], times["flash"]),
        }
    inputs = rig.inputs(small, 1)

    def of(*tokens: int) -> Callable[[], torch.Tensor]:
        return forward(backend, inputs._replace(texts=[rig.text(each) for each in tokens]))

    # what is new of their bucket and has nothing to do with attention
    flash(of(45, 8))()
    times = rig.seconds({"torch's choice": of(43, 6), "flash": flash(of(44, 7))}, 1, warm=False)
    yield {
        "": f"{small}² · batch 1 · the first with texts so long",
        **{f"{name} ms": round(1000 * middle(took), 1) for name, took in times.items()},
    }


@torch.inference_mode()
def kernels(rig: Rig) -> Iterator[Row]:
    """What a forward runs for attention, by name, one block deep. Last: a profiler may slow all that comes after it."""
    shallow = Rig(rig.device, replace(rig.scale, transformer={**rig.scale.transformer, "num_layers": 1}))
    act = forward(shallow.backend(), shallow.inputs(rig.scale.small, 1))
    for name, each in {"torch's choice": act, "masked": masked(act), "flash": flash(act)}.items():
        each()
        yield {"": name, "kernels": attention_kernels(shallow, each)}


@torch.inference_mode()
def graphs(rig: Rig) -> Iterator[Row]:
    """The backend's forward recorded as a CUDA graph and played again, beside the same called anew."""
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
    """Each block through torch.compile, beside eager ones; the first call compiles, and its time is told. The compiled
    ones turn by real numbers, since the compiler leaves complex ones as they are."""
    eager, backend = rig.backend(), rig.backend()
    compile_blocks(rig, backend)
    small, large = rig.scale.small, rig.scale.large
    for side, batch in ((small, 1), (large, 1), (small, rig.scale.batches[-1]), (large, 2)):
        rig.empty()
        inputs = rig.inputs(side, batch)
        act = instead(forward(backend, inputs), rotate=_rotate)
        (first,) = rig.seconds({"first": act}, 1, warm=False)["first"]
        times = rig.seconds({"eager": forward(eager, inputs), "compiled": act})
        yield {
            "": f"{side}² · batch {batch}",
            **{f"{name} ms": round(1000 * middle(took), 1) for name, took in times.items()},
            "× eager": ratios(times["eager"], times["compiled"]),
            "first call s": round(first, 1),
            **rig.peak_memory(),
        }


@torch.inference_mode()
def eight_bits(rig: Rig) -> Iterator[Row]:
    """The blocks' linear layers in 8 bits, weights and inputs, converted in place: no later section has the model."""
    backend = rig.backend()
    rig.release()
    shapes = [(rig.scale.small, rig.scale.batches[-1]), (rig.scale.large, 1), (rig.scale.small, 1)]
    acts = {shape: forward(backend, rig.inputs(*shape)) for shape in shapes}
    before = {shape: rig.seconds({"16": act})["16"] for shape, act in acts.items()}
    exact = {shape: act() for shape, act in acts.items()}
    rig.empty()
    convert(backend.transformer.transformer_blocks)
    for name in ("eager", "compiled"):
        if name == "compiled":
            compile_blocks(rig, backend)
            acts = {shape: instead(act, rotate=_rotate) for shape, act in acts.items()}
        for shape, act in acts.items():
            rig.empty()
            took = rig.seconds({"8": act})["8"]
            yield {
                "": f"{shape[0]}² · batch {shape[1]} · {name}",
                "16 bits, eager ms": round(1000 * middle(before[shape]), 1),
                "8 bits ms": round(1000 * middle(took), 1),
                "× 16 bits": round(middle(before[shape]) / middle(took), 3),
                "error, of the velocity": apart(act(), exact[shape]),
                **rig.peak_memory(),
            }


def forward(backend: TorchBackend, inputs: Inputs) -> Callable[[], torch.Tensor]:
    return partial(backend.velocity, *inputs, [()] * inputs.rows)


def masked(act: Callable[[], torch.Tensor]) -> Callable[[], torch.Tensor]:
    """The same with all rows in one call of attention and a mask for the padding of their texts."""
    return instead(act, attend=_attend)


def flash(act: Callable[[], torch.Tensor]) -> Callable[[], torch.Tensor]:
    """The same with torch's flash kernel, whatever else torch would choose."""

    def run() -> torch.Tensor:
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            return act()

    return run


def instead(act: Callable[[], torch.Tensor], **functions: Callable[..., torch.Tensor]) -> Callable[[], torch.Tensor]:
    """The same with other functions in `inference.models.transformer`."""

    def run() -> torch.Tensor:
        with mock.patch.multiple(rows, **functions):
            return act()

    return run


def apart(one: torch.Tensor, other: torch.Tensor) -> float:
    """How far one is from the other, as a share of that; a number that is not finite shows."""
    return round(((one - other).square().mean() / other.square().mean()).sqrt().item(), 4)


def raw(plain: QwenImageTransformer2DModel, inputs: Inputs) -> torch.Tensor:
    """Diffusers' forward of all rows, every text as long as the longest, so that there is nothing to mask."""
    longest = next(size for size in TEXT_BUCKETS if size >= max(map(len, inputs.texts)))
    texts = [functional.pad(text, (0, 0, 0, longest - len(text)), value=0.5) for text in inputs.texts]
    return _plain(plain, inputs.latents, inputs, torch.stack(texts))


def as_the_pipeline(plain: QwenImageTransformer2DModel, inputs: Inputs) -> None:
    """Two forwards of as many pictures of one prompt, which is how its pipeline makes several at once."""
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


def _attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, lengths: Sequence[int]) -> torch.Tensor:
    mask = _mask(tuple(lengths), query.shape[1], query.dtype, query.device)
    query, key, value = (each.transpose(1, 2) for each in (query, key, value))
    return functional.scaled_dot_product_attention(query, key, value, attn_mask=mask).transpose(1, 2)


@lru_cache(maxsize=1)  # one for all blocks of a forward
def _mask(lengths: tuple[int, ...], tokens: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    mask = torch.zeros(len(lengths), 1, 1, tokens, dtype=dtype, device=device)
    for row, length in enumerate(lengths):
        mask[row, ..., length:] = float("-inf")
    return mask


def _rotate(x: torch.Tensor, rotation: torch.Tensor) -> torch.Tensor:
    cosine, sine = torch.view_as_real(rotation).unbind(-1)
    even, odd = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack((even * cosine - odd * sine, even * sine + odd * cosine), -1).flatten(-2).to(x.dtype)


def attention_kernels(rig: Rig, act: Callable[[], object]) -> str:
    """What the device runs for attention, by the names of its kernels; on a CPU by those of torch's operators."""
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if rig.on_gpu else [])]
    with profile(activities=activities) as seen:
        act()
        rig.synchronize()
    names = {event.key for event in seen.key_averages() if ATTENTION.search(event.key)}
    kernels = {name for name in names if not name.startswith(("aten::", "cuda"))} or names
    return (
        ", ".join(sorted({re.split(r"[<(]", name.removeprefix("void "))[0][-100:] for name in kernels})) or "none named"
    )


def recorded(act: Callable[[], torch.Tensor]) -> Callable[[], None]:
    """What `act` does on the device, as a graph. It has run before, on a stream of its own as torch asks."""
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
    """Have each block compiled for each shape that it meets, at the first call with it."""
    torch.compiler.reset()
    for block in backend.transformer.transformer_blocks:
        # on a processor the compiler would need a C++ compiler: there it is only shown that all can be traced
        block.compile(backend="inductor" if rig.on_gpu else "eager", fullgraph=True, dynamic=False)


class EightBitLinear(nn.Module):
    """y = xWᵀ + b with both factors in 8 bits, each row of x and of W by a scale of its own."""

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
            use_fast_accum=True,
        )
        y = y.to(x.dtype) if self.bias is None else y.to(x.dtype) + self.bias
        return y.unflatten(0, x.shape[:-1])


def _scale(matrix: torch.Tensor) -> torch.Tensor:
    """[rows, 1], 32 bits: what brings each row's largest number to the largest there is."""
    return (matrix.float().abs().amax(1, keepdim=True) / LARGEST).clamp_min(1e-12)


def convert(blocks: nn.Module) -> None:
    """Replace one linear layer after the other, so that the old weights go as the new ones come."""
    # no list of all modules: it would hold every old layer to the end
    for parent in [module for module in blocks.modules() if not isinstance(module, nn.Linear)]:
        for name, layer in list(parent.named_children()):
            if isinstance(layer, nn.Linear):
                setattr(parent, name, EightBitLinear(layer))
