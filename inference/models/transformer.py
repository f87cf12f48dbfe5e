"""Diffusers' Qwen-Image transformer made fit for batches: rows of a forward do not see one another.

Replaced in place, weights untouched: the rotary embedding becomes one cached table for text and image, and
the attention processor takes one ready mask for both. RoPE is that of Su et al. 2021 over three axes (frame,
row, column), as Qwen-Image lays it out.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache, partial
from typing import Any

import torch
from diffusers import QwenImageTransformer2DModel
from diffusers.models.attention_processor import Attention
from torch import nn
from torch.nn import functional

Shape = tuple[int, int, int]


class JointRope(nn.Module):
    """Drop-in for diffusers' `pos_embed`, for rows of one shape: unit complex [text + image tokens, 1, width / 2]."""

    def __init__(self, original: nn.Module) -> None:
        super().__init__()
        self._original = original
        self._table = lru_cache(maxsize=64)(self._compute)

    def forward(self, shapes: list[list[Shape]], device: torch.device, max_txt_seq_len: int) -> torch.Tensor:
        return self._table(tuple(shapes[0]), int(max_txt_seq_len), device)

    def _compute(self, shape: tuple[Shape, ...], text_tokens: int, device: torch.device) -> torch.Tensor:
        image, text = self._original([list(shape)], max_txt_seq_len=text_tokens, device=device)
        return torch.cat([text, image])[:, None]


class Blocks(nn.ModuleList):
    """The transformer's blocks; diffusers' loop over them meets each, or one function that stands for them all."""

    _through: Callable[..., Any] | None = None

    @contextmanager
    def running(self, through: Callable[..., Any] | None) -> Iterator[None]:
        """Forwards that call `through(blocks, …)` instead of block after block, where it is given."""
        self._through = through
        try:
            yield
        finally:
            self._through = None

    def __iter__(self) -> Iterator[Any]:
        blocks = super().__iter__()
        return iter([partial(self._through, list(blocks))]) if self._through else blocks


def rotate(x: torch.Tensor, rotation: torch.Tensor) -> torch.Tensor:
    """Turn each pair of x [rows, tokens, heads, width] by its position's angle, in 32 bits."""
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * rotation).flatten(-2).to(x.dtype)


class RowAttention:
    """Joint attention over [text, image] with an additive mask [rows, 1, 1, text + image tokens]."""

    def __call__(
        self,
        attn: Attention,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        attention_mask: torch.Tensor,
        image_rotary_emb: torch.Tensor,
        encoder_hidden_states_mask: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Image and text streams [rows, tokens, width] in; their attention outputs, image first, out."""
        assert encoder_hidden_states_mask is None, "the joint mask comes in attention_mask"
        image, text = hidden_states, encoder_hidden_states
        heads = attn.heads
        query = torch.cat(
            [
                attn.norm_added_q(_split(attn.add_q_proj(text), heads)),
                attn.norm_q(_split(attn.to_q(image), heads)),
            ],
            dim=1,
        )
        key = torch.cat(
            [
                attn.norm_added_k(_split(attn.add_k_proj(text), heads)),
                attn.norm_k(_split(attn.to_k(image), heads)),
            ],
            dim=1,
        )
        value = _split(torch.cat([attn.add_v_proj(text), attn.to_v(image)], dim=1), heads)
        mixed = functional.scaled_dot_product_attention(
            rotate(query, image_rotary_emb).transpose(1, 2),
            rotate(key, image_rotary_emb).transpose(1, 2),
            value.transpose(1, 2),
            attn_mask=attention_mask,
        )
        mixed = mixed.transpose(1, 2).flatten(2)
        boundary = text.shape[1]
        return attn.to_out[0](mixed[:, boundary:]), attn.to_add_out(mixed[:, :boundary])


def make_rows_independent(transformer: QwenImageTransformer2DModel) -> QwenImageTransformer2DModel:
    """Swap RoPE, attention and the list of blocks in place and return the transformer, ready to infer."""
    transformer.pos_embed = JointRope(transformer.pos_embed)
    transformer.set_attn_processor(RowAttention())
    transformer.transformer_blocks.__class__ = Blocks
    return transformer.eval()


def _split(x: torch.Tensor, heads: int) -> torch.Tensor:
    return x.view(x.shape[0], x.shape[1], heads, -1)
