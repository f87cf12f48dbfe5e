"""A plan's velocities are torch's, whatever is in the batch: texts, conditions, adapters, rows that reuse a step."""

import logging

import pytest
import torch

from inference.adapters.weights import Adapter, Shape
from inference.step_cache import StepCache
from tests.inference.plans.conftest import CHANNELS, TEXT_WIDTH

pytestmark = pytest.mark.timeout(900)
GRID, CONDITIONS = (4, 6), ((3, 4), (2, 2))


def adapter(layers, rank, seed):
    """Make an adapter of every linear layer, strong enough to be seen."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {name: Shape(rank, inputs, outputs, 0.5) for name, (inputs, outputs) in layers.sizes.items()}
    memory = torch.randn(sum(shape.size for shape in shapes.values()), generator=generator) / 20
    return Adapter(memory, shapes)


def rows(count, *, conditions=(), longest=12, seed=0):
    """Make inputs of so many rows, with texts of different lengths."""
    generator = torch.Generator().manual_seed(seed)
    grids = (GRID, *conditions)
    tokens = sum(height * width for height, width in grids)
    latents = torch.randn(count, tokens, CHANNELS, generator=generator)
    texts = [torch.randn(longest - row % 4, TEXT_WIDTH, generator=generator) for row in range(count)]
    return latents, torch.rand(count, generator=generator), texts, grids


def difference(backends, inputs, adapters, caches=(None, None)):
    with torch.inference_mode():
        one, other = (
            backend.velocity(*inputs, adapters, cache) for backend, cache in zip(backends, caches, strict=True)
        )
    assert one.shape == other.shape
    assert one.isfinite().all()
    return (one - other).abs().max().item()


@pytest.mark.parametrize("conditions", [(), CONDITIONS[:1], CONDITIONS], ids=len)
@pytest.mark.parametrize("count", [1, 2, 3])
def test_velocities_are_torchs(backends, count, conditions):
    assert difference(backends, rows(count, conditions=conditions), [()] * count) < 1e-4


def test_more_rows_than_there_is_room_for_run_in_pieces(backends):
    assert difference(backends, rows(7, conditions=CONDITIONS), [()] * 7) < 1e-4


def test_rows_have_adapters_of_their_own(backends):
    one, two, three = (adapter(backends[0].layers, rank, rank) for rank in (2, 16, 5))
    adapters = [((one, 1.0),), (), ((two, -0.7), (three, 1.5)), ((three, 1.0),)]
    inputs = rows(4, conditions=CONDITIONS[:1])
    assert difference(backends, inputs, adapters) < 1e-3
    assert difference((backends[1], backends[1]), inputs, adapters) == 0
    with torch.inference_mode():
        plain, adapted = (backends[1].velocity(*inputs, each) for each in ([()] * 4, adapters))
    changed = [(plain[row] - adapted[row]).abs().max() > 0.01 for row in range(4)]
    assert changed == [True, False, True, True]


def test_adapters_may_change_some_layers_alone(backends):
    whole = adapter(backends[0].layers, 4, 1)
    kept = {name: shape for name, shape in whole.shapes.items() if "blocks.1.attn" in name or name == "proj_out"}
    some = Adapter(torch.randn(sum(shape.size for shape in kept.values())) / 5, kept)
    assert difference(backends, rows(2), [((some, 1.0),), ()]) < 1e-3


@pytest.mark.parametrize("adapted", [False, True])
def test_rows_reuse_a_step_as_in_torch(backends, adapted):
    one = adapter(backends[0].layers, 2, 2)
    adapters = [(), ((one, 1.0),), ()] * 2 if adapted else [()] * 6
    inputs = rows(6, conditions=CONDITIONS[:1])
    caches = [StepCache([0.5, 0.0, 1e-9], [None] * 3) for _ in backends]
    assert difference(backends, inputs, adapters, caches) < 1e-3
    again = [StepCache([0.5, 0.0, 1e-9], cache.memories) for cache in caches]
    moved = (inputs[0] + 0.01, *inputs[1:])
    assert difference(backends, moved, adapters, again) < 1e-3
    assert [cache.reused for cache in again] == [[True, False, False]] * 2


def test_sizes_without_room_are_torchs_and_told_once(backends, caplog):
    longer, larger = rows(2, longest=20), rows(2, conditions=((8, 8),))
    with caplog.at_level(logging.WARNING):
        for inputs in (longer, longer, larger):
            assert difference(backends, inputs, [()] * 2) == 0
    assert [record.getMessage() for record in caplog.records] == [
        "the plan has no room for 24 tokens, 20 of text and adapters of rank 0: torch runs these",
        "the plan has no room for 88 tokens, 12 of text and adapters of rank 0: torch runs these",
    ]


def test_adapters_that_are_given_back_are_not_kept(backends):
    one = adapter(backends[0].layers, 2, 3)
    difference(backends, rows(1), [((one, 1.0),)])
    assert len(backends[1]._factors) == 1
    backends[1].layers.forget()
    assert len(backends[1]._factors) == 0
