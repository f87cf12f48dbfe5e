"""Whatever a request is, and whatever joins, leaves or is canceled while it runs, its picture stays the same."""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from inference.engine import Engine
from inference.request import Request
from tests.inference.conftest import Watch, order

SIZES = ((128, 128), (96, 128))
PROMPTS = (
    "a red circle on a white background",
    "",
    "黑色背景左边有一个蓝色的正方形",
    "a large green star at the top " * 5,
)


class Wish(NamedTuple):
    """Everything that decides a picture."""

    operation: str
    guidance: float
    adapter: str | None
    size: tuple[int, int]
    step_cache: float
    cached: bool
    prompt: str
    steps: int
    seed: int


class BatchMate(NamedTuple):
    """A request that joins after so many batches, and is canceled so many later, or runs to its end."""

    wish: Wish
    joins: int
    canceled: int | None


wishes = st.builds(
    Wish,
    operation=st.sampled_from(["generate", "img2img", "inpaint", "outpaint", "redraw", "edit"]),
    guidance=st.sampled_from([1.0, 3.0, 7.0]),
    adapter=st.sampled_from([None, "plain", "distilled"]),
    size=st.sampled_from(SIZES),
    step_cache=st.sampled_from([0.0, 0.3]),
    cached=st.booleans(),
    prompt=st.sampled_from(PROMPTS),
    steps=st.integers(2, 6),
    seed=st.integers(0, 3),
)
batch_mates = st.lists(
    st.builds(BatchMate, wishes, st.integers(1, 8), st.none() | st.integers(0, 4)), min_size=1, max_size=5
)


def request(wish: Wish, adapters: dict[str, str], **changes) -> Request:
    width, height = wish.size
    needs = {
        "generate": {},
        "edit": {"images": (drawing(),)},
        "img2img": {"images": (drawing(),), "strength": 0.7},
        "inpaint": {"images": (drawing(),), "strength": 0.9, "mask": Image.linear_gradient("L").resize((128, 128))},
        "outpaint": {"images": (drawing().resize((width - 32, height - 16)),), "extend": (32, 0, 0, 16)},
        "redraw": {"images": (drawing(),), "strength": 0.7, "box": (20, 30, 70, 90)},
    }
    return order(
        wish.prompt,
        operation=wish.operation,
        width=width,
        height=height,
        steps=wish.steps,
        seed=wish.seed,
        guidance_scale=wish.guidance,
        step_cache=wish.step_cache,
        use_cache=wish.cached,
        adapters=((adapters[wish.adapter], 0.7),) if wish.adapter else (),
        **needs[wish.operation] | changes,
    )


@lru_cache
def drawing() -> Image.Image:
    image = Image.new("RGB", (128, 128), "orange")
    ImageDraw.Draw(image).rectangle((30, 40, 80, 100), fill="navy")
    return image


@pytest.fixture(scope="module")
def adapters(adapter, tmp_path_factory) -> dict[str, str]:
    """Return the path of an adapter, and of one that has a noise schedule of its own."""
    distilled = tmp_path_factory.mktemp("adapters") / "distilled.safetensors"
    distilled.symlink_to(adapter)
    distilled.with_suffix(".recipe.json").write_text('{"sampler": {"shift": 3.0}}')
    return {"plain": adapter, "distilled": str(distilled)}


@settings(
    max_examples=settings.default.max_examples * 3 // 25,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(wish=wishes, batch_mates=batch_mates, deterministic=st.booleans())
@example(
    wish=Wish("generate", 3.0, "plain", SIZES[0], 0.0, True, PROMPTS[0], 6, 1),
    batch_mates=[
        BatchMate(Wish("generate", 7.0, None, SIZES[0], 0.3, True, PROMPTS[2], 4, 2), 1, None),
        BatchMate(Wish("generate", 3.0, "distilled", SIZES[0], 0.0, False, PROMPTS[0], 6, 1), 2, 3),
        BatchMate(Wish("generate", 1.0, None, SIZES[1], 0.0, True, PROMPTS[3], 5, 3), 3, None),
    ],
    deterministic=False,
)
def test_batch_mates_change_nothing(engine, watch, adapters, wish, batch_mates, deterministic):
    alone_request = request(wish, adapters, deterministic=deterministic)
    alone = pixels(engine.submit(alone_request))
    begins_later = wish.cached and wish.operation == "generate" and not deterministic
    assert alone_request.state.steps_skipped == (wish.steps // 2 if begins_later else 0)
    watch.reset()
    joined: list[Request] = []
    for batch_mate in batch_mates:
        join(watch, engine, batch_mate, request(batch_mate.wish, adapters), joined)
    # another request runs already, so that the first batches come before it
    joined.append(first := order(steps=3, seed=9))
    engine.submit(first)
    together = pixels(engine.submit(request(wish, adapters, deterministic=deterministic)))
    assert np.abs(alone - together).max() <= (0 if deterministic else 1)
    watch.reset()
    for other in joined:
        engine.cancel(other)
        other.ticket.future.exception(timeout=60)


def join(watch: Watch, engine: Engine, batch_mate: BatchMate, other: Request, joined: list[Request]) -> None:
    def act() -> None:
        joined.append(other)
        engine.submit(other)
        if batch_mate.canceled is not None:
            watch.at(batch_mate.canceled + 1, lambda: engine.cancel(other))

    watch.at(batch_mate.joins, act)


def pixels(future) -> np.ndarray:
    return np.asarray(future.result(timeout=120).image).astype(int)
