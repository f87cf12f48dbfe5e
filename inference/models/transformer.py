"""Makes the rows of a batch independent of one another in diffusers' Qwen-Image transformer.

Two parts are replaced in place, the weights unchanged: the rotary embedding becomes one cached table for image and
text, and a row's attention ends where its own text ends. RoPE is that of Su et al. 2021 over three axes (frame, row,
column), as laid out in Qwen-Image.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache, partial
from itertools import groupby
from typing import Any

import torch
from diffusers import QwenImageTransformer2DModel
from diffusers.models.attention_processor import Attention
from torch import nn
from torch.nn import functional

Shape = tuple[int, int, int]


class JointRope(nn.Module):
    """A replacement for diffusers' `pos_embed`, for rows of one shape: complex [image + text tokens, 1, width / 2]."""

    def __init__(self, original: nn.Module) -> None:
        super().__init__()
        self._original = original
        self._table = lru_cache(maxsize=64)(self._compute)

    def forward(self, shapes: list[list[Shape]], device: torch.device, max_txt_seq_len: int) -> torch.Tensor:
        return self._table(tuple(shapes[0]), int(max_txt_seq_len), device)

    def _compute(self, shape: tuple[Shape, ...], text_tokens: int, device: torch.device) -> torch.Tensor:
        image, text = self._original([list(shape)], max_txt_seq_len=text_tokens, device=device)
        return torch.cat([image, text])[:, None]


class Blocks(nn.ModuleList):
    """The transformer's blocks; diffusers' loop over them calls each block, or one function in place of them all."""

    _through: Callable[..., Any] | None = None

    @contextmanager
    def running(self, through: Callable[..., Any] | None) -> Iterator[None]:
        """Have forwards call `through(blocks, …)`, if given, instead of block after block."""
        self._through = through
        try:
            yield
        finally:
            self._through = None

    def __iter__(self) -> Iterator[Any]:
        blocks = super().__iter__()
        return iter([partial(self._through, list(blocks))]) if self._through else blocks


def rotate(x: torch.Tensor, rotation: torch.Tensor) -> torch.Tensor:
    """Rotate each pair of x [rows, tokens, heads, width] by its position's angle, in 32 bits."""
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * rotation).flatten(-2).to(x.dtype)


class RowAttention:
    """Joint attention over [image, text], row by row without the text's padding.

    A mask would give the same result, but rules out the fastest kernels. Neighbouring rows with equally long texts
    share a call, so which kernel a row gets depends only on its own length, never on its batch-mates.
    """

    def __call__(
        self,
        attn: Attention,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        text_lengths: Sequence[int],
        image_rotary_emb: torch.Tensor,
        attention_mask: None = None,
        encoder_hidden_states_mask: None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Attend over image and text streams [rows, tokens, width]; return their outputs, image first.

        text_lengths: how many text tokens of each row are not padding; the outputs of the others mean nothing.
        """
        assert attention_mask is encoder_hidden_states_mask is None, "text_lengths says what is padding"
        image, text = hidden_states, encoder_hidden_states
        heads, boundary = attn.heads, image.shape[1]
        query = torch.cat(
            [
                attn.norm_q(_split(attn.to_q(image), heads)),
                attn.norm_added_q(_split(attn.add_q_proj(text), heads)),
            ],
            dim=1,
        )
        key = torch.cat(
            [
                attn.norm_k(_split(attn.to_k(image), heads)),
                attn.norm_added_k(_split(attn.add_k_proj(text), heads)),
            ],
            dim=1,
        )
        value = _split(torch.cat([attn.to_v(image), attn.add_v_proj(text)], dim=1), heads)
        lengths = [boundary + length for length in text_lengths]
        mixed = attend(rotate(query, image_rotary_emb), rotate(key, image_rotary_emb), value, lengths).flatten(2)
        return attn.to_out[0](mixed[:, :boundary]), attn.to_add_out(mixed[:, boundary:])


def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, lengths: Sequence[int]) -> torch.Tensor:
    """Attend over [rows, tokens, heads, width] within each row's first `lengths` tokens; the rest means nothing."""
    if all(length == query.shape[1] for length in lengths):
        return _attend(query, key, value)
    if query.requires_grad:
        # the gradient of each slice would be a tensor of all rows
        present = (
            torch.arange(query.shape[1], device=query.device) < torch.tensor(lengths, device=query.device)[:, None]
        )
        return _attend(query, key, value, present[:, None, None])
    mixed, start = torch.zeros_like(query), 0
    for length, group in groupby(lengths):
        rows = slice(start, start + len(list(group)))
        mixed[rows, :length] = _attend(query[rows, :length], key[rows, :length], value[rows, :length])
        start = rows.stop
    return mixed


def _attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None = None
) -> torch.Tensor:
    query, key, value = (projection.transpose(1, 2) for projection in (query, key, value))
    return functional.scaled_dot_product_attention(query, key, value, mask).transpose(1, 2)


def make_rows_independent(transformer: QwenImageTransformer2DModel) -> QwenImageTransformer2DModel:
    """Replace RoPE, attention and the list of blocks in place, and return the transformer in evaluation mode."""
    transformer.pos_embed = JointRope(transformer.pos_embed)
    transformer.set_attn_processor(RowAttention())
    transformer.transformer_blocks.__class__ = Blocks
    return transformer.eval()


def _split(x: torch.Tensor, heads: int) -> torch.Tensor:
    return x.view(x.shape[0], x.shape[1], heads, -1)
