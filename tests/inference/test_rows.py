"""A row's attention sees only its own tokens, whatever its batch-mates' texts are."""

import torch
from torch.nn import functional

from inference.models.transformer import attend

ROWS, TOKENS, HEADS, WIDTH = 4, 24, 2, 16


def projections() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(ROWS, TOKENS, HEADS, WIDTH, generator=generator) for _ in range(3)]


def test_rows_of_different_lengths_get_what_each_gets_alone():
    lengths = [20, 20, 24, 17]
    together = attend(*projections(), lengths)
    for row, length in enumerate(lengths):
        alone = [projection[row : row + 1, :length].transpose(1, 2) for projection in projections()]
        expected = functional.scaled_dot_product_attention(*alone).transpose(1, 2)
        torch.testing.assert_close(together[row : row + 1, :length], expected)
        assert not together[row, length:].any()


def test_what_lies_in_the_padding_changes_nothing():
    query, key, value = projections()
    before = attend(query, key, value, [20, 22, 17, 24])
    for projection in (query, key, value):
        projection[0, 20:] = float("nan")
        projection[2, 17:] = 1e9
    assert torch.equal(attend(query, key, value, [20, 22, 17, 24]), before)
