"""A model split over two processes draws what it draws in one, in half of the memory for its blocks."""

import os
import signal
import time
from pathlib import Path

import pytest
import torch

from inference import shares
from inference.backends.choice import Choice
from inference.engine import Engine
from inference.errors import InferenceError, ModelUnavailable
from inference.models import catalog, forms, qwen_image
from tests.inference.conftest import difference, order
from tests.inference.plans.test_planned_engine import orders


def followers():
    """The ids of this process's followers."""
    children = [int(each) for file in Path("/proc/self/task").glob("*/children") for each in file.read_text().split()]
    return [each for each in children if b"inference.backends.split" in Path(f"/proc/{each}/cmdline").read_bytes()]


def drawn(requests, **options):
    with Engine(device="cpu", max_batch_tokens=2048, **options) as engine:
        futures = [engine.submit(request) for request in requests]
        return [future.result() for future in futures]


@pytest.mark.deep
@pytest.mark.timeout(600)
def test_two_processes_draw_what_one_does(adapter):
    alone, together = (drawn(orders(adapter), cards=cards) for cards in (1, 2))
    assert [difference(one, other) <= 1 for one, other in zip(alone, together, strict=True)] == [True] * 12
    assert [each.steps_reused for each in together] == [each.steps_reused for each in alone]
    assert not followers()


@pytest.mark.timeout(300)
def test_a_process_that_dies_is_a_fault_and_nobody_waits():
    with Engine(device="cpu", cards=2) as engine:
        assert engine.submit(order()).result().image
        (other,) = followers()
        os.kill(other, signal.SIGKILL)
        with pytest.raises(InferenceError):
            engine.submit(order(seed=5)).result(timeout=120)
        until = time.monotonic() + 60
        while engine.warm and time.monotonic() < until:
            time.sleep(0.1)
        assert not engine.warm


def test_each_has_half_of_the_blocks_weights():
    card = catalog.card()
    whole, half = (qwen_image.load(card, torch.device("cpu")).transformer for _ in range(2))
    shares.shrink(half, 0, 2)
    of_blocks = [forms.size(each.transformer_blocks, forms.PLAIN) for each in (whole, half)]
    assert of_blocks[1] / of_blocks[0] == pytest.approx(0.5, abs=0.01)
    beside = [forms.size(each, forms.PLAIN) - blocks for each, blocks in zip((whole, half), of_blocks, strict=True)]
    assert beside[0] == beside[1]


def test_what_cannot_be_split_is_told(monkeypatch):
    with pytest.raises(ModelUnavailable, match="6 heads cannot be split over 5 cards"):
        Engine(device="cpu", cards=5).start()
    for said in ("0", "-1", "two", "99"):
        monkeypatch.setenv("KILN_CARDS", said)
        with pytest.raises(ModelUnavailable, match=f"KILN_CARDS must be a whole number from 1 to 16, not {said}"):
            Engine(device="cpu").start()
    with pytest.raises(ModelUnavailable, match="a plan runs on one card"):
        Engine(device="cpu", cards=2, backend=Choice("onnx")).start()
