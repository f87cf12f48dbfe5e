"""Writes the graphs of a model as ONNX files with dynamic rows, tokens, text and rank."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from diffusers import QwenImageTransformer2DModel
from torch.export import Dim

from inference.plans import graph
from inference.plans.graph import Part

OPSET = 20
# of the example that the graphs are traced with; all different, and none is 1, which would be taken for a constant
ROWS, ROW_TOKENS, TEXT, RANK = 3, 24, 10, 4


def axes(part: Part) -> dict[str, dict[int, str]]:
    """Return the dynamic axes of a part's inputs, by name."""
    stream, positions = (
        {0: "rows", 1: "tokens"},
        {
            "text_mask": {0: "rows", 1: "text"},
            "image_cosine": {0: "tokens"},
            "image_sine": {0: "tokens"},
            "text_cosine": {0: "text"},
            "text_sine": {0: "text"},
        },
    )
    known = {
        "latents": stream,
        "after_first": stream,
        "image": stream,
        "is_condition": stream,
        "text": {0: "rows", 1: "text"},
        "embedding": {0: "rows", 1: "text"},
        "time": {0: "rows"},
        "modulation": {0: "rows"},
        **positions,
    }
    return {name: known[name] for name in part.inputs} | {name: {1: "rows", 2: "rank"} for name in part.factors}


def example(part: Part, dtype: torch.dtype) -> list[torch.Tensor]:
    """Return inputs to trace a part with, in their order."""
    config = part.model.config
    width, head = part.model.inner_dim, config.attention_head_dim // 2
    shapes = {
        "latents": (ROWS, ROW_TOKENS, config.in_channels),
        "after_first": (ROWS, ROW_TOKENS, width),
        "image": (ROWS, ROW_TOKENS, width),
        "text": (ROWS, TEXT, width),
        "embedding": (ROWS, TEXT, config.joint_attention_dim),
        "time": (ROWS,),
        "modulation": (ROWS, 2 if part.conditioned else 1, width),
    }
    in_32_bits = {
        "text_mask": (ROWS, TEXT),
        "image_cosine": (ROW_TOKENS, head),
        "image_sine": (ROW_TOKENS, head),
        "text_cosine": (TEXT, head),
        "text_sine": (TEXT, head),
    }
    found = []
    for name in part.inputs:
        if name == "is_condition":
            found.append(torch.zeros(ROWS, ROW_TOKENS, dtype=torch.int32))
        elif name in in_32_bits:
            found.append(torch.rand(in_32_bits[name]))
        else:
            found.append(torch.rand(shapes[name]).to(dtype))
    for kind in part.kinds:
        found += [torch.rand(kind.blocks, ROWS, RANK, size).to(dtype) for size in (kind.inputs, kind.outputs)]
    return found


def export(model: QwenImageTransformer2DModel, folder: Path, tell: Callable[[str], None]) -> list[Path]:
    """Write the graphs of a transformer into a folder, the weights beside them; return the files.

    The model is changed in place and of no other use afterwards. Its type is that of the graphs.
    """
    dtype = next(model.parameters()).dtype
    written = []
    for part in graph.parts(model):
        tell(f"exporting {part.name}")
        path = folder / f"{part.name}.onnx"
        _write(part, example(part, dtype), axes(part), path)
        written.append(path)
    return written


def _write(part: Part, inputs: Sequence[torch.Tensor], dynamic: Mapping[str, Mapping[int, str]], path: Path) -> None:
    sizes = {name: Dim(name, min=1, max=2**20) for name in ("rows", "tokens", "text", "rank")}
    shapes = tuple({index: sizes[name] for index, name in dynamic[each].items()} for each in dynamic)
    log = logging.getLogger("torch.onnx")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                part,
                tuple(inputs),
                dynamo=True,
                dynamic_shapes={"tensors": shapes},
                input_names=list(dynamic),
                output_names=list(part.outputs),
                opset_version=OPSET,
                verbose=False,
            )
    finally:
        log.setLevel(before)
    assert program is not None
    program.save(path, external_data=True)
