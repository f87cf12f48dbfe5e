"""Each example is learnt once an epoch, beside others of its bucket, and as seldom without its caption as asked."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from inference.request import TILE
from inference.training import batches, buckets
from inference.training.encoded import Encoded
from inference.training.hyperparameters import Hyperparameters

CHANNELS = 4


def row(number: int, grid: tuple[int, int] = (2, 2), captions: int = 1) -> Encoded:
    """Make an example whose latents are its number, with captions of ones and an empty one of zeros."""
    latents = torch.full((grid[0] * grid[1], CHANNELS), float(number))
    texts = tuple(torch.ones(3 + caption, CHANNELS) for caption in range(captions))
    return Encoded(latents, latents[:0], (grid,), texts, torch.zeros(2, CHANNELS))


def numbers(batch: batches.Batch) -> list[int]:
    return [int(latents[0, 0]) for latents in batch.latents]


@given(st.lists(st.sampled_from([(2, 2), (2, 3), (3, 2)]), min_size=1, max_size=30), st.integers(1, 9))
def test_an_epoch_has_each_example_once_in_batches_of_one_bucket(grids, most):
    rows = [row(number, grid) for number, grid in enumerate(grids)]
    size = sum(math.ceil(grids.count(grid) / most) for grid in set(grids))
    for epoch in range(2):
        drawn = [batches.draw(rows, Hyperparameters(batch=most), epoch * size + step) for step in range(size)]
        assert sorted(number for batch in drawn for number in numbers(batch)) == list(range(len(rows)))
        assert all(len(batch.latents) <= most for batch in drawn)
        assert all(grids[number] == batch.grids[0] for batch in drawn for number in numbers(batch))


def test_steps_differ_and_each_can_be_drawn_again():
    rows = [row(number) for number in range(8)]
    chosen = Hyperparameters(batch=4)
    first, second, again = (batches.draw(rows, chosen, step) for step in (0, 2, 0))
    assert torch.equal(first.noise, again.noise)
    assert torch.equal(first.sigmas, again.sigmas)
    assert not torch.equal(first.noise, second.noise)
    assert numbers(first) == numbers(again)
    assert not torch.equal(first.noise, batches.draw(rows, Hyperparameters(batch=4, seed=1), 0).noise)


def test_captions_are_left_empty_as_often_as_asked():
    rows = [row(number, captions=2) for number in range(8)]

    def kinds(dropout: float) -> list[int]:
        drawn = [batches.draw(rows, Hyperparameters(batch=8, dropout=dropout), step) for step in range(200)]
        return [len(text) for batch in drawn for text in batch.texts]

    lengths = kinds(0.25)
    assert lengths.count(2) / len(lengths) == pytest.approx(0.25, abs=0.04)
    assert lengths.count(3) == pytest.approx(lengths.count(4), rel=0.15)
    assert 2 not in kinds(0.0)
    assert set(kinds(1.0)) == {2}


def test_noise_levels_are_as_asked():
    rows = [row(number) for number in range(8)]

    def levels(**chosen: float) -> torch.Tensor:
        drawn = [batches.draw(rows, Hyperparameters(batch=8, **chosen), step).sigmas for step in range(300)]
        return torch.cat(drawn)

    uniform = levels(noise_uniform=1.0)
    assert float(uniform.mean()) == pytest.approx(0.5, abs=0.03)
    assert float(uniform.std()) == pytest.approx(math.sqrt(1 / 12), abs=0.02)
    normal = levels(noise_uniform=0.0, noise_mean=0.5, noise_deviation=1.2)
    logits = torch.logit(normal.double())
    assert float(logits.mean()) == pytest.approx(0.5, abs=0.08)
    assert float(logits.std()) == pytest.approx(1.2, abs=0.06)


def test_a_measurement_is_the_same_each_time_and_covers_all_levels():
    one, other = (batches.measuring(row(3), seed=5) for _ in range(2))
    assert torch.equal(one.noise, other.noise)
    assert one.sigmas.tolist() == pytest.approx([(level + 0.5) / 8 for level in range(8)])


@given(st.integers(16, 3000), st.integers(16, 3000), st.sampled_from([64, 128, 256, 512, 1024]))
def test_a_bucket_has_whole_tiles_and_about_the_area_asked_for(width, height, resolution):
    ratio = buckets.ratio((width, height))
    rows, columns = buckets.grid(ratio, resolution)
    assert rows >= 1
    assert columns >= 1
    if resolution >= 256:
        assert rows * columns * TILE**2 == pytest.approx(resolution**2, rel=0.12)
        assert columns / rows == pytest.approx(ratio, rel=0.2)


@given(st.integers(16, 200), st.integers(16, 200))
def test_only_what_does_not_fit_the_bucket_is_cut_away(width, height):
    image = Image.new("RGB", (width, height))
    cut = buckets.crop(image, buckets.ratio(image.size))
    assert cut.width == width or cut.height == height
    if 1 / 3 <= width / height <= 3:
        assert cut.width * cut.height > 0.75 * width * height


@pytest.mark.parametrize("size", [(128, 128), (192, 128), (128, 192), (160, 90), (120, 96), (128, 64), (32, 96)])
def test_pictures_of_a_usual_proportion_are_not_cut(size):
    assert buckets.crop(Image.new("RGB", size), buckets.ratio(size)).size == size
