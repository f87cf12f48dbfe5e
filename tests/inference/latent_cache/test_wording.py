"""Which prompts never share latents, however alike their embeddings are."""

import pytest

from inference.latent_cache.wording import signature


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("a red circle on a white background", "白色背景上有一个红色的圆形"),
        ("a gray cat", "the grey cat."),
        ("two cats", "两只猫"),
        ("a picture of a cross", "一个十字"),
        ("a pink rose", "一朵粉红色的玫瑰"),
        ("a street without cars", "no cars in the street"),
        ('a sign that says "OPEN"', "a sign saying “OPEN”"),
        ("the king's crown", "a crown of the king"),
    ],
)
def test_the_same_said_otherwise_may_share(one, other):
    assert signature(one) == signature(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("a red circle", "a blue circle"),
        ("红色的圆形", "粉红色的圆形"),
        ("a red circle", "蓝色的圆形"),
        ("a red circle and a red square", "a red circle and a square"),
        ("two cats", "three cats"),
        ("两只猫", "三只猫"),
        ("bus 17", "bus 71"),
        ("a street with cars", "a street without cars"),
        ("他戴帽子", "他没戴帽子"),
        ("a man who doesn't smile", "a man who does smile"),
        ('a sign that says "OPEN"', 'a sign that says "CLOSED"'),
        ("写着「开」的牌子", "写着「关」的牌子"),
    ],
)
def test_colours_numbers_negations_and_quoted_texts_must_be_the_same(one, other):
    assert signature(one) != signature(other)
