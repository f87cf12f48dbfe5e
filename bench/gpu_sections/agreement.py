"""Numbers that must agree: the house model's pictures of every operation, on this device and on the processor."""

import random
import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from safetensors.torch import save_file

from bench.adapters import ATTENTION, factors
from bench.gpu_sections.rig import Rig, Row, Scale
from inference.adapters.layers import Layers
from inference.engine import Engine
from inference.models import catalog, qwen_image
from inference.request import Operation, Request

SEED = 2026
# jobs that are repeated alone
SAMPLE = 8
ADAPTER_RANK = 8


def agreement(rig: Rig) -> Iterator[Row]:
    """Measure differences, of 255, in 32 bits and in the model's type: from the processor's picture in 32 bits, from
    running alone, and from running without streams; then run many random jobs, none of which may fail."""
    torch.backends.cudnn.allow_tf32 = False  # convolutions, or 32 bits would be 19
    with tempfile.TemporaryDirectory() as folder:
        orders = Orders(Path(folder), rig.scale)
        with Engine(device="cpu", max_batch_tokens=1024) as processor:
            expected = alone(processor, orders.all())
        for dtype in dict.fromkeys((torch.float32, rig.dtype)):
            load = partial(qwen_image.load, dtype=dtype)
            name = str(dtype).removeprefix("torch.")
            with Engine(device=str(rig.device), load=load, max_batch_tokens=1024) as engine:
                made = alone(engine, orders.all())
                for kind in expected:
                    yield {"": f"{kind} · {name} beside the processor's", **difference(expected[kind], made[kind])}
                yield {"": f"with mates, beside alone · {name}", **worst(made, together(engine, orders))}
                yield {"": f"{rig.scale.jobs} random jobs · {name}", **jobs(engine, orders, rig.scale.jobs)}
                engine._runner._beside_steps = None
                yield {"": f"no streams, beside streams · {name}", **worst(made, alone(engine, orders.all()))}


class Orders:
    """Makes requests, one of each kind."""

    def __init__(self, folder: Path, scale: Scale) -> None:
        self.steps = scale.steps
        self.side = scale.side
        self.batch_mates = scale.batch_mates
        torch.manual_seed(SEED)
        layers = Layers(qwen_image.load(catalog.card(), torch.device("cpu")).transformer)
        self.adapter = str(folder / "adapter.safetensors")
        save_file(dict(factors(layers, ATTENTION, ADAPTER_RANK)), self.adapter)

    def all(self) -> dict[str, Request]:
        return {kind: self.one(kind, seed) for seed, kind in enumerate(self.kinds)}

    @property
    def kinds(self) -> dict[str, dict[str, Any]]:
        """The changes of each kind to a plain order."""
        side, picture = self.side, {"images": (drawing(self.side),)}
        box = (side // 8, side // 8, 5 * side // 8, 5 * side // 8)
        beyond = {"images": (drawing(side // 2),), "extend": (side // 4,) * 4}
        return {
            "generate": {},
            "unguided": {"guidance_scale": 1.0},
            "edit": {"operation": Operation.EDIT, **picture},
            "img2img": {"operation": Operation.IMG2IMG, **picture},
            "inpaint": {"operation": Operation.INPAINT, "mask": mask(side), **picture},
            "outpaint": {"operation": Operation.OUTPAINT, **beyond},
            "redraw": {"operation": Operation.REDRAW, "box": box, **picture},
            "adapter": {"adapters": ((self.adapter, 0.8),)},
            "step cache": {"step_cache": 0.2},
        }

    def one(self, kind: str, seed: int, **changes: Any) -> Request:
        values = {"width": self.side, "height": self.side, "steps": self.steps, "guidance_scale": 3.0, "seed": seed}
        return Request("a red circle on a white background", **values | self.kinds[kind] | changes)


def drawing(side: int) -> Image.Image:
    image = Image.linear_gradient("L").resize((side, side)).convert("RGB")
    ImageDraw.Draw(image).ellipse((side // 4, side // 4, 3 * side // 4, 3 * side // 4), fill="red")
    return image


def mask(side: int) -> Image.Image:
    """Draw a mask, white on the right half."""
    image = Image.new("L", (side, side))
    ImageDraw.Draw(image).rectangle((side // 2, 0, side, side), fill=255)
    return image


def alone(engine: Engine, orders: dict[str, Request]) -> dict[str, Image.Image]:
    return {kind: engine.submit(request).result().image for kind, request in orders.items()}


def together(engine: Engine, orders: Orders) -> dict[str, Image.Image]:
    """Make the same pictures again, with batch-mates of the same kinds and other seeds."""
    wanted = orders.all()
    batch_mates = [orders.one(kind, 100 + seed) for kind in wanted for seed in range(orders.batch_mates)]
    futures = {kind: engine.submit(request) for kind, request in wanted.items()}
    others = [engine.submit(mate) for mate in batch_mates]
    for future in others:
        future.result()
    return {kind: future.result().image for kind, future in futures.items()}


def jobs(engine: Engine, orders: Orders, count: int) -> Row:
    """Run random kinds, sizes and numbers of steps all at once, and compare a few of them with running alone."""
    choose = random.Random(SEED)

    def kind(index: int) -> tuple[str, dict[str, Any]]:
        name = choose.choice([*orders.kinds])
        changes: dict[str, Any] = {"steps": choose.randint(2, 2 * orders.steps), "account": choose.choice("abc")}
        if "operation" not in orders.kinds[name]:
            changes |= {"width": orders.side * choose.randint(1, 2), "height": orders.side * choose.randint(1, 2)}
        return name, changes

    drawn = [kind(index) for index in range(count)]
    futures = [engine.submit(orders.one(name, seed, **changes)) for seed, (name, changes) in enumerate(drawn)]
    failed = [error for future in futures if (error := future.exception())]
    sample = [seed for seed in range(0, count, max(1, count // SAMPLE)) if not futures[seed].exception()]
    again = {str(seed): orders.one(drawn[seed][0], seed, **drawn[seed][1]) for seed in sample}
    made = {str(seed): futures[seed].result().image for seed in sample}
    row: Row = {"failed": len(failed), **({"first": repr(failed[0])} if failed else {})}
    return row | worst(alone(engine, again), made) if sample else row


def worst(ones: dict[str, Image.Image], others: dict[str, Image.Image]) -> Row:
    """Return the kind that differs most."""
    found = {kind: difference(ones[kind], others[kind]) for kind in ones}
    kind = max(found, key=lambda each: found[each]["largest"])
    return {**found[kind], "in": kind}


def difference(one: Image.Image, other: Image.Image) -> Row:
    """Return the largest and the mean difference of a channel of a pixel, of 255."""
    moved: Sequence[Any] = np.abs(np.asarray(one).astype(int) - np.asarray(other))
    return {"largest": int(np.max(moved)), "mean": round(float(np.mean(moved)), 3)}
