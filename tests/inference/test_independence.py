"""A picture does not depend on its batch-mates, and equals that of diffusers' own pipeline."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from inference.request import Request
from tests.inference.conftest import difference, order

LONG = "a large green triangle in the top left corner and a small blue square below it on a black background " * 2


@pytest.mark.parametrize(
    ("changes", "negative"),
    [
        ({"steps": 6}, ""),
        ({"steps": 5, "width": 128, "height": 80, "negative_prompt": "a blue square"}, "a blue square"),
        ({"steps": 5, "guidance_scale": 1.0, "seed": 2**40}, None),
        ({"prompt": LONG, "guidance_scale": 2.5}, ""),
    ],
)
def test_a_picture_made_alone_is_the_plain_pipelines(engine, pipeline, changes, negative):
    request = order(**changes)
    picture = engine.submit(request).result()
    expected = pipeline(
        request.prompt,
        negative_prompt=negative,
        true_cfg_scale=request.guidance_scale,
        num_inference_steps=request.steps,
        width=request.width,
        height=request.height,
        generator=torch.Generator().manual_seed(request.seed),
    ).images[0]
    assert np.asarray(expected).std() > 1, "a flat picture would prove nothing"
    assert picture.image.size == (request.width, request.height)
    assert np.abs(np.asarray(picture.image).astype(int) - np.asarray(expected)).max() <= 1


def test_batch_mates_that_join_and_leave_change_nothing(engine, watch):
    alone = engine.submit(order(steps=12)).result()
    watch.reset()
    batch_mates = [
        order(LONG, steps=3, seed=1),
        order("", steps=5, guidance_scale=9.0, seed=2),
        order(steps=20, seed=3),
    ]
    for boundary, batch_mate in zip((1, 4, 8), batch_mates, strict=True):
        watch.at(boundary, lambda batch_mate=batch_mate: engine.submit(batch_mate))
    together = engine.submit(order(steps=12)).result()
    assert set(watch.rows("denoise")) >= {2, 3}
    assert difference(alone, together) <= 1
    for batch_mate in batch_mates:
        assert batch_mate.ticket.future.result().steps_run == batch_mate.steps


def test_what_the_batch_mates_are_changes_nothing_at_all_within_a_batch_bucket(engine, watch):
    pictures = []
    for batch_mate in (order("a blue square", seed=1), order("a green star", seed=2, guidance_scale=7.0)):
        watch.at(1, lambda batch_mate=batch_mate: engine.submit(batch_mate))
        pictures.append(engine.submit(order()).result())
        batch_mate.ticket.future.result()
        assert watch.rows("denoise") == [2] * 4
        watch.reset()
    assert difference(*pictures) == 0


def test_a_deterministic_picture_has_the_same_bits_whoever_else_runs_and_on_however_many_threads(engine, watch):
    def wish(**changes) -> Request:
        return order(**{"width": 256, "height": 192, "deterministic": True} | changes)

    def in_its_thread(act: Callable[[], object]) -> None:
        watch.at(1, act)
        engine.submit(order(steps=1)).result()

    alone = engine.submit(wish()).result()
    watch.reset()
    batch_mates, again = [wish(seed=seed, deterministic=False) for seed in range(3)], [wish(), wish()]
    watch.at(1, lambda: [engine.submit(request) for request in (batch_mates[0], again[0], *batch_mates[1:], again[1])])
    engine.submit(order(steps=2)).result()
    assert all(difference(alone, request.ticket.future.result(timeout=120)) == 0 for request in again)
    assert [batch_mate.ticket.future.result(timeout=120).steps_run for batch_mate in batch_mates] == [4] * 3
    assert watch.rows("denoise").count(3) == 4, "the others share"
    threads = torch.get_num_threads()
    in_its_thread(lambda: torch.set_num_threads(1 if threads > 1 else 2))
    try:
        assert difference(alone, engine.submit(wish()).result()) == 0
    finally:
        in_its_thread(lambda: torch.set_num_threads(threads))


def test_the_same_request_gives_the_same_picture(engine):
    assert difference(engine.submit(order()).result(), engine.submit(order()).result()) == 0


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 8},
        {"prompt": "a green star on a black background"},
        {"prompt": "白色背景上有一个红色的圆形"},
        {"negative_prompt": "a blue square"},
        {"guidance_scale": 1.0},
        {"guidance_scale": 8.0},
        {"steps": 5},
    ],
    ids=str,
)
def test_another_request_gives_another_picture(engine, changes):
    assert difference(engine.submit(order()).result(), engine.submit(order(**changes)).result()) > 1


def test_guidance_at_one_ignores_the_negative_prompt(engine):
    plain = engine.submit(order(guidance_scale=1.0)).result()
    told = engine.submit(order(guidance_scale=1.0, negative_prompt="a blue square")).result()
    assert difference(plain, told) == 0


@pytest.mark.parametrize("size", [(64, 80), (208, 112), (256, 256)])
def test_any_size_of_whole_tiles_is_made(engine, size):
    assert engine.submit(order(width=size[0], height=size[1], steps=1)).result().image.size == size
