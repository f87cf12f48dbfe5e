"""Rows get from their adapters what PEFT computes, whatever else is in the forward."""

import pytest
import torch
from diffusers import QwenImageTransformer2DModel

from inference.models import catalog
from inference.models.transformer import make_rows_independent
from tests.inference.adapters.conftest import ATTENTION, EVERYTHING, House, forward, load

CLOSE = {"rtol": 0, "atol": 2e-5}


@pytest.mark.parametrize("targets", [ATTENTION, EVERYTHING], ids=["attention", "everything"])
def test_an_adapter_is_what_peft_merges_into_the_weights(house, make, targets, full):
    for rank in (4, 16, 24, 128, 256) if full else (24,):
        path, oracle = make(rank=rank, targets=targets), make_rows_independent(load())
        oracle.load_lora_adapter(path)
        oracle.fuse_lora(lora_scale=0.7)
        expected = forward(oracle, [0, 1])
        assert (expected - forward(house.transformer, [0, 1])).abs().max() > 0.05, "an adapter that does nothing"
        adapter = house.read(path)
        torch.testing.assert_close(house.velocity([((adapter, 0.7),)] * 2), expected, **CLOSE)


def test_adapters_of_one_row_add_up_each_with_its_own_scale(house, oracle, make):
    paths = [make("style", rank=16), make("face", rank=4, targets=ATTENTION), make("light", 64, ATTENTION)]
    scales = [0.5, -0.8, 1.3]
    for path in paths:
        oracle.load_lora_adapter(path, adapter_name=path.stem)
    oracle.set_adapters([path.stem for path in paths], scales)
    row = tuple(zip(map(house.read, paths), scales, strict=True))
    torch.testing.assert_close(house.velocity([row]), forward(oracle, [0]), **CLOSE)


def test_an_adapter_given_twice_counts_twice(house, make):
    adapter = house.read(make())
    twice, double = house.velocity([((adapter, 0.4), (adapter, 0.4)), ((adapter, 0.8),)], seeds=[0, 0])
    torch.testing.assert_close(twice, double, **CLOSE)


def test_every_row_of_a_mixed_batch_is_what_it_is_alone(house, make, full):
    tiny, small, odd, large = (
        house.read(make(f"rank {rank}", rank, targets))
        for rank, targets in (
            (4, ATTENTION),
            (16, EVERYTHING),
            (40, ["img_mlp.net.2"]),
            (128 if full else 64, EVERYTHING),
        )
    )
    rows = [
        (),
        ((tiny, 1.0),),
        ((small, 0.5), (large, 0.25)),
        ((large, 1.0),),
        (),
        ((small, -1.0),),
        ((odd, 2.0),),
        ((tiny, 0.3), (odd, 1.0), (small, 0.1)),
    ]
    if full:  # like guidance: the same rows a second time with another text
        rows *= 2
    together = house.velocity(rows)
    for seed, row in enumerate(rows):
        torch.testing.assert_close(together[seed], house.velocity([row], seeds=[seed])[0], **CLOSE)


def test_what_the_batch_mates_have_changes_nothing_at_all(house, make, full):
    batch_mates = [(), ((house.read(make("mate", 16)), 1.0),), ((house.read(make("other", 128, ATTENTION)), -2.0),)]
    for rank in (4, 16, 64) if full else (4,):
        row = ((house.read(make(rank=rank)), 1.0),)
        results = [house.velocity([row, batch_mate, batch_mate, row])[0] for batch_mate in batch_mates]
        assert torch.equal(results[0], results[1])
        assert torch.equal(results[0], results[2])


def test_rows_without_adapters_are_what_they_were(house, oracle, make):
    adapter = house.read(make())
    expected = forward(oracle, [0, 1])
    assert torch.equal(house.velocity([(), ()]), expected)
    assert torch.equal(house.velocity([(), ((adapter, 1.0),)])[0], expected[0])


def test_the_weights_and_their_names_stay(house, make):
    house.velocity([((house.read(make()), 1.0),)])
    expected, actual = load().state_dict(), house.transformer.state_dict()
    assert actual.keys() == expected.keys()
    assert all(torch.equal(actual[name], expected[name]) for name in expected)


def test_a_forward_that_raises_leaves_nothing_behind(house, make):
    adapter = house.read(make())
    with pytest.raises(RuntimeError, match="stack"), house.layers.given([((adapter, 1.0),)]):
        forward(house.transformer, [])
    assert torch.equal(house.velocity([()]), forward(house.transformer, [0]))


def test_in_16_bits_it_is_as_exact_as_peft(house, make):
    path = make(dtype=torch.bfloat16)
    exact = house.velocity([((house.read(path), 0.7),)])
    oracle = make_rows_independent(load(torch.bfloat16))
    half = House(load(torch.bfloat16))
    oracle.load_lora_adapter(path)
    oracle.set_adapters("default_0", 0.7)
    error, usual = (
        (velocity - exact).square().mean().sqrt()
        for velocity in (half.velocity([((half.read(path), 0.7),)]), forward(oracle, [0]))
    )
    assert error < 1.1 * usual < 0.1 * exact.square().mean().sqrt()


def test_a_model_that_sees_its_condition_pictures_at_another_time(make):
    """Check a transformer that runs its time embedding and the image stream's modulation for twice as many rows."""
    torch.manual_seed(0)
    config = dict(QwenImageTransformer2DModel.load_config(catalog.card().path, subfolder="transformer"))
    transformers = [QwenImageTransformer2DModel.from_config(config | {"zero_cond_t": True}) for _ in range(2)]
    transformers[1].load_state_dict(transformers[0].state_dict())
    house, oracle = House(transformers[0]), make_rows_independent(transformers[1])
    paths = [make("style"), make("face", rank=4)]
    together = house.velocity([((house.read(paths[0]), 0.7),), (), ((house.read(paths[1]), 1.2),)])
    torch.testing.assert_close(together[1:2], forward(oracle, [1]), **CLOSE)
    for path in paths:
        oracle.load_lora_adapter(path, adapter_name=path.stem)
    for seed, path, scale in ((0, paths[0], 0.7), (2, paths[1], 1.2)):
        oracle.set_adapters(path.stem, scale)
        torch.testing.assert_close(together[[seed]], forward(oracle, [seed]), **CLOSE)
