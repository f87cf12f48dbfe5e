"""The engine draws the same pictures by a plan as in torch: all operations, adapters, caches, mixed batches."""

import numpy as np
import pytest
from PIL import Image

from inference.backends.choice import Choice
from inference.engine import Engine
from inference.errors import ModelUnavailable
from tests.inference.conftest import difference, order

pytestmark = pytest.mark.timeout(900)
RED = Image.new("RGB", (128, 128), (220, 40, 40))
LEFT = Image.new("L", (128, 128), 0)
LEFT.paste(255, (0, 0, 64, 128))


def orders(adapter):
    """Twelve orders of every operation, with adapters, both caches, long texts and sizes of their own."""
    adapted = {"adapters": ((adapter, 1.0),)}
    return [
        order(),
        order("一个红色的圆", seed=1, **adapted),
        order("a blue square and a green circle " * 6, seed=2),
        order(seed=3, guidance_scale=1.0),
        order(seed=4, width=192, height=64),
        order(seed=5, steps=12, step_cache=0.3),
        order(seed=6, steps=8, step_cache=1.0, **adapted),
        order(seed=7, operation="img2img", images=(RED,), strength=0.6, steps=6),
        order(seed=8, operation="inpaint", images=(RED,), mask=LEFT, strength=0.8),
        order("make it blue", seed=9, operation="edit", images=(RED,)),
        order("make it blue", seed=10, operation="edit", images=(RED, RED), **adapted),
        order(seed=11, deterministic=True),
    ]


def drawn(choice, adapter):
    with Engine(device="cpu", max_batch_tokens=2048, backend=choice) as engine:
        futures = [engine.submit(request) for request in orders(adapter)]
        return [future.result() for future in futures]


def test_pictures_are_those_of_torch(house_plans, adapter):
    in_torch, planned = drawn(Choice(), adapter), drawn(Choice("onnx", house_plans), adapter)
    assert [difference(one, other) <= 1 for one, other in zip(in_torch, planned, strict=True)] == [True] * 12
    assert [each.steps_reused for each in planned] == [each.steps_reused for each in in_torch]
    assert planned[6].steps_reused > 0


def test_deterministic_pictures_have_the_same_bits(house_plans):
    made = []
    for _ in range(2):
        with Engine(device="cpu", backend=Choice("onnx", house_plans)) as engine:
            others = [engine.submit(order(seed=seed)) for seed in range(len(made) * 3)]
            made.append(np.asarray(engine.submit(order(deterministic=True)).result().image))
            assert all(other.result() for other in others)
    assert (made[0] == made[1]).all()


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        (("onnx",), "python -m inference.plans build"),
        (("tensorrt",), "tensorrt cannot be loaded"),
    ],
)
def test_without_a_plan_the_engine_says_how_to_have_one(tmp_path, choice, words):
    with pytest.raises(ModelUnavailable, match=words):
        Engine(device="cpu", backend=Choice(*choice, plans=tmp_path)).start()


@pytest.mark.parametrize("said", [{"name": "cuda"}, {"name": "onnx", "precision": "fp8"}])
def test_what_is_no_backend_is_told(said):
    with pytest.raises(ModelUnavailable, match="must be one of"):
        Choice(**said)
