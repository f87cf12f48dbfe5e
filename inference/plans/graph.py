"""The transformer as three graphs with dynamic rows, tokens, text and adapters, ready for export.

    first    latents, times and texts → the streams after the first block
    others   all other blocks
    last     the picture's stream → the velocity

Split so, because the step cache leaves the forward after the first block (see `inference.step_cache`); the weights are
in one graph each. Attention is written out, since every runtime fuses the plain products, and its mask is made inside
of the texts' lengths. RoPE takes cosines and sines, for complex numbers do not export. Adapters are inputs too: the
factors of all layers of one kind in one tensor [blocks, rows, rank, features], so that a batch with adapters needs no
other graph; with rank 0 there are none.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any, NamedTuple

import torch
from diffusers import QwenImageTransformer2DModel
from diffusers.models.attention_processor import Attention
from torch import nn

FIRST, OTHERS, LAST = PARTS = ("first", "others", "last")
# what a score loses whose token is padding: exp of it is 0 in every type, and it does not overflow 16 bits
MASKED = -30000.0
_BLOCK = re.compile(r"transformer_blocks\.(\d+)\.(.+)")

Factors = Mapping[str, tuple[torch.Tensor, torch.Tensor]]


class Kind(NamedTuple):
    """Linear layers of one name and size, one in each of `blocks` blocks; 1 where it is outside of them."""

    name: str
    blocks: int
    inputs: int
    outputs: int

    @property
    def down(self) -> str:
        """The name of the input with all A's [blocks, rows, rank, in features]."""
        return f"{self.name}.down"

    @property
    def up(self) -> str:
        """The name of the input with all B's, transposed and scaled [blocks, rows, rank, out features]."""
        return f"{self.name}.up"


class Layout(NamedTuple):
    """Which part of a model a linear layer is in, of which kind it is, and its place among those."""

    part: str
    kind: str
    place: int


def layout(layer: str) -> Layout:
    """Return where a linear layer of the transformer is, by its name."""
    if found := _BLOCK.fullmatch(layer):
        block = int(found[1])
        return Layout(OTHERS, found[2], block - 1) if block else Layout(FIRST, found[2], 0)
    return Layout(LAST if layer.startswith(("norm_out.", "proj_out")) else FIRST, layer, 0)


def kinds(sizes: Mapping[str, tuple[int, int]]) -> dict[str, list[Kind]]:
    """Sort linear layers, given as name → (in, out) features, into the kinds of each part."""
    found: dict[str, dict[str, Kind]] = {part: {} for part in PARTS}
    for layer, (inputs, outputs) in sizes.items():
        part, kind, place = layout(layer)
        found[part][kind] = Kind(kind, place + 1, inputs, outputs)
    return {part: list(by_name.values()) for part, by_name in found.items()}


class GraphLinear(nn.Linear):
    """A linear layer whose adapters are inputs of the graph."""

    place: Layout
    given: _Given

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the layer to x [rows, tokens, in features] or [rows, in features]."""
        y: torch.Tensor = super().forward(x)
        down, up = (factors[self.place.place] for factors in self.given.factors[self.place.kind])
        if x.ndim == 2:
            return y + (x[:, None] @ down.transpose(1, 2) @ up)[:, 0]
        return y + x @ down.transpose(1, 2) @ up


class Modulation(nn.Module):
    """A block's modulation of one stream, of the times [rows, times, width] at which the stream is seen."""

    def __init__(self, layers: nn.Module, *, at_all_times: bool) -> None:
        super().__init__()
        self.layers = layers
        self._at_all_times = at_all_times

    def forward(self, times: torch.Tensor) -> torch.Tensor:
        """Return [times · rows, 6 · width] for the picture, as a block of diffusers takes it, or [rows, …] for text."""
        if self._at_all_times:
            found: torch.Tensor = self.layers(times).transpose(0, 1).flatten(0, 1)
        else:
            found = self.layers(times[:, :1])[:, 0]
        return found


class _Given:
    """The factors of the forward that is being traced."""

    factors: Factors

    @contextmanager
    def of(self, kinds: Sequence[Kind], tensors: Sequence[torch.Tensor]) -> Iterator[None]:
        self.factors = {kind.name: (tensors[2 * index], tensors[2 * index + 1]) for index, kind in enumerate(kinds)}
        try:
            yield
        finally:
            del self.factors


class GraphAttention:
    """Joint attention over [image, text] in plain products, where padding of texts has no weight."""

    def __call__(
        self,
        attn: Attention,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        encoder_hidden_states_mask: torch.Tensor,
        image_rotary_emb: tuple[torch.Tensor, torch.Tensor],
        attention_mask: None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Attend over streams [rows, tokens, width]; the mask [rows, 1, 1, tokens] is added to the scores."""
        image, text = hidden_states, encoder_hidden_states
        boundary = image.shape[1]

        def heads(x: torch.Tensor) -> torch.Tensor:
            split: torch.Tensor = x.unflatten(-1, (attn.heads, -1))
            return split

        query = torch.cat([attn.norm_q(heads(attn.to_q(image))), attn.norm_added_q(heads(attn.add_q_proj(text)))], 1)
        key = torch.cat([attn.norm_k(heads(attn.to_k(image))), attn.norm_added_k(heads(attn.add_k_proj(text)))], 1)
        value = torch.cat([heads(attn.to_v(image)), heads(attn.add_v_proj(text))], 1)
        query = rotate(query, *image_rotary_emb).transpose(1, 2) * query.shape[-1] ** -0.5
        key = rotate(key, *image_rotary_emb).permute(0, 2, 3, 1)
        weights = (query @ key + encoder_hidden_states_mask).softmax(-1)
        mixed = (weights @ value.transpose(1, 2)).transpose(1, 2).flatten(2)
        return attn.to_out[0](mixed[:, :boundary]), attn.to_add_out(mixed[:, boundary:])


def rotate(x: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor) -> torch.Tensor:
    """Rotate each pair of x [rows, tokens, heads, width] by its position's angle [tokens, width / 2], in 32 bits."""
    even, odd = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    cosine, sine = cosine[:, None], sine[:, None]
    return torch.stack([even * cosine - odd * sine, even * sine + odd * cosine], -1).flatten(-2).to(x.dtype)


class Part(nn.Module):
    """One of the three graphs: `forward` takes its `inputs` in their order, and then the factors of its `kinds`."""

    name: str
    outputs: tuple[str, ...]

    def __init__(self, model: QwenImageTransformer2DModel, given: _Given, kinds: Sequence[Kind]) -> None:
        super().__init__()
        self.model = model
        self.kinds = kinds
        self._given = given

    @property
    def conditioned(self) -> bool:
        """Whether the model sees the tokens of condition pictures at another time (`zero_cond_t`)."""
        return bool(self.model.config.zero_cond_t)

    @cached_property
    def inputs(self) -> tuple[str, ...]:
        """The names of the inputs without the factors."""
        raise NotImplementedError

    @property
    def factors(self) -> tuple[str, ...]:
        """The names of the factors' inputs."""
        return tuple(name for kind in self.kinds for name in (kind.down, kind.up))

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        count = len(self.inputs)
        with self._given.of(self.kinds, tensors[count:]):
            return self.run(**dict(zip(self.inputs, tensors[:count], strict=True)))

    def run(self, **inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        raise NotImplementedError

    def _shared(self, inputs: Mapping[str, torch.Tensor], like: torch.Tensor) -> dict[str, Any]:
        """Return what every block is given."""
        text = inputs["text_mask"]
        image = torch.ones_like(inputs["image_cosine"][:, 0])[None].expand(text.shape[0], -1)
        present = torch.cat([image, text], 1)[:, None, None]
        return {
            "encoder_hidden_states_mask": ((1 - present) * MASKED).to(like.dtype),
            "image_rotary_emb": tuple(
                torch.cat([inputs[f"image_{name}"], inputs[f"text_{name}"]]) for name in ("cosine", "sine")
            ),
            "modulate_index": inputs.get("is_condition"),
        }


# of all rows alike
POSITIONS = ("image_cosine", "image_sine", "text_cosine", "text_sine")


class First(Part):
    """Everything before the blocks, and the first of them.

    latents [rows, tokens, channels]; time [rows], of 1; embedding [rows, text, width]; text_mask [rows, text] of 1 for
    tokens and 0 for padding; cosines and sines [tokens or text, half a head's width] and text_mask in 32 bits;
    is_condition [rows, tokens], only with `zero_cond_t`. The modulation is [rows, times, width]; `zero_cond_t` has two
    times.
    """

    name = FIRST
    outputs = ("before", "after_first", "text", "modulation")

    @cached_property
    def inputs(self) -> tuple[str, ...]:
        return (
            "latents",
            "time",
            "embedding",
            "text_mask",
            *POSITIONS,
            *(("is_condition",) if self.conditioned else ()),
        )

    def run(self, **inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        model = self.model
        before, time = model.img_in(inputs["latents"]), inputs["time"]
        text = model.txt_in(model.txt_norm(inputs["embedding"]))
        times = torch.stack([time, time * 0], 1) if self.conditioned else time[:, None]
        waves = model.time_text_embed.time_proj(times.flatten()).unflatten(0, times.shape)
        modulation = model.time_text_embed.timestep_embedder(waves.to(before.dtype))
        shared = self._shared(inputs, before)
        text, image = model.transformer_blocks[0](
            hidden_states=before, encoder_hidden_states=text, temb=modulation, **shared
        )
        return before, image, text, modulation


class Others(Part):
    """All blocks but the first."""

    name = OTHERS
    outputs = ("image",)

    @cached_property
    def inputs(self) -> tuple[str, ...]:
        return (
            "after_first",
            "text",
            "modulation",
            "text_mask",
            *POSITIONS,
            *(("is_condition",) if self.conditioned else ()),
        )

    def run(self, **inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        image, text = inputs["after_first"], inputs["text"]
        shared = self._shared(inputs, image)
        for block in list(self.model.transformer_blocks)[1:]:
            text, image = block(hidden_states=image, encoder_hidden_states=text, temb=inputs["modulation"], **shared)
        return (image,)


class Last(Part):
    """Everything after the blocks."""

    name = LAST
    outputs = ("velocity",)
    inputs = ("image", "modulation")  # type: ignore[assignment]

    def run(self, **inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return (self.model.proj_out(self.model.norm_out(inputs["image"], inputs["modulation"][:, 0])),)


def parts(model: QwenImageTransformer2DModel) -> list[Part]:
    """Return the three parts of a transformer, which is changed in place and of no other use afterwards."""
    assert not model.config.use_additional_t_cond, "the pictures of layers have another forward"
    given = _Given()
    linear = {name: layer for name, layer in model.named_modules() if type(layer) is nn.Linear}
    for name, layer in linear.items():
        layer.__class__ = GraphLinear
        layer.__dict__.update(place=layout(name), given=given)
    model.set_attn_processor(GraphAttention())
    for block in model.transformer_blocks:
        block.img_mod = Modulation(block.img_mod, at_all_times=True)
        block.txt_mod = Modulation(block.txt_mod, at_all_times=False)
        # the modulation tells the times apart, instead of the block
        block.zero_cond_t = False
    model.eval()
    found = kinds({name: (layer.in_features, layer.out_features) for name, layer in linear.items()})
    return [kind(model, given, found[kind.name]) for kind in (First, Others, Last)]
