"""Forms of the transformer's weights, as memory profiles keep them: two blocks at the model's widths in each."""

from collections.abc import Iterator
from dataclasses import replace

import torch

from bench.gpu_sections.rig import Rig, Row, middle
from inference import footprint
from inference.backends.pytorch import TorchBackend
from inference.errors import ModelUnavailable
from inference.memory_profiles import QWEN_IMAGE
from inference.models import forms

BLOCKS = 2
BATCHES = (1, 4)


@torch.inference_mode()
def profiles(rig: Rig) -> Iterator[Row]:
    """Measure a forward's time, beside weights as they are, and its memory, beside what is computed.

    The memory is that of the step, without weights; on a processor only the computed one is told.
    """
    config = {**rig.scale.transformer, "num_layers": BLOCKS}
    shape = replace(QWEN_IMAGE, transformer=config)
    inputs = {batch: rig.inputs(rig.scale.large, batch) for batch in BATCHES}
    plain: dict[int, float] = {}
    for form in forms.FORMS:
        blocks = rig.blocks(BLOCKS)
        try:
            forms.keep(blocks, form, rig.device)
            meta = shape.two_blocks(form, rig.dtype)
        except ModelUnavailable as error:
            yield {"": f"{form}: {error}"}
            continue
        backend = TorchBackend(blocks)
        for batch, given in inputs.items():
            forward = lambda backend=backend, given=given: backend.velocity(*given, [()] * given.rows)  # noqa: E731
            rig.empty()
            kept = rig.allocated()
            took = middle(rig.seconds({form: forward})[form])
            computed = footprint.step(meta, given.rows, given.grids, max(map(len, given.texts)))
            row: Row = {"": f"{form} · batch {batch}", "ms": round(1000 * took, 2)}
            row["× plain"] = round(took / plain.setdefault(batch, took), 2)
            row["computed GiB"] = round(computed / 2**30, 2)
            if measured := rig.most_allocated() - kept:
                row |= {
                    "measured GiB": round(measured / 2**30, 2),
                    "computed / measured": round(computed / measured, 3),
                }
            yield row
        del backend, blocks
