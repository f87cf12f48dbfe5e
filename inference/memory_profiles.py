"""Memory profiles: how a model is kept in memory, what each takes, and which one a device has room for.

    python -m inference.memory_profiles --model Qwen/Qwen-Image
    python -m inference.memory_profiles --qwen-image --rows 2 8 --side 1024

prints what each takes, by `footprint`, from the model's configuration alone. A profile needs its weights, a step of
these rows, and a decode in pieces that runs beside it; whole decodes, adapters and larger batches take what is left,
and do without where nothing is.
"""

from __future__ import annotations

import argparse
import logging
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from diffusers import AutoencoderKLQwenImage, QwenImageTransformer2DModel
from torch import nn
from transformers import AutoConfig, PretrainedConfig, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from inference import footprint, shares
from inference.card import ModelCard
from inference.errors import ModelUnavailable
from inference.models import autoencoder, catalog, forms
from inference.models.forms import FP8, INT8, NF4, PLAIN, UNCHANGED, MemoryProfile
from inference.models.transformer import make_rows_independent
from inference.request import TILE

GIB = 1024**3
AUTO = "auto"
PROFILES = {
    each.name: each
    for each in (
        UNCHANGED,
        MemoryProfile("offload", PLAIN, offload=True),
        MemoryProfile("int8", INT8),
        MemoryProfile("int8-offload", INT8, offload=True),
        MemoryProfile("fp8", FP8),
        MemoryProfile("fp8-offload", FP8, offload=True),
        MemoryProfile("nf4", NF4),
        MemoryProfile("nf4-offload", NF4, offload=True),
    )
}
# Those that are tried, best first: 8 bits of whole numbers lose less than those of floating point.
AUTOMATIC = ("plain", "offload", "int8", "int8-offload", "nf4", "nf4-offload")
# Of a device's free memory; what libraries take for themselves, and gaps between allocations, are not computed.
USABLE = 0.92
# A guided picture has two rows; prompts seldom have more tokens.
ROWS, TEXT = 2, 128
CARDS = (24, 48, 80)
# Of one machine.
MOST_CARDS = 16
# Of Qwen-Image's text encoder, Qwen2.5-VL with 7 billion parameters.
_TEXT: Mapping[str, Any] = {
    "text_config": {
        "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28,
        "num_key_value_heads": 4, "vocab_size": 152064, "max_position_embeddings": 128000,
    },
    "vision_config": {"hidden_size": 1280, "depth": 32, "num_heads": 16, "out_hidden_size": 3584,
                      "intermediate_size": 3420},
    "tie_word_embeddings": False,
}  # fmt: skip

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Shape:
    """What a model consists of, by its parts' configurations; the parts are made on meta, without contents."""

    transformer: Mapping[str, Any]
    autoencoder: Mapping[str, Any]
    text_encoder: PretrainedConfig
    cards: int = 1
    """Over how many the transformer is split."""

    @cached_property
    def parts(self) -> tuple[nn.Module, AutoencoderKLQwenImage, nn.Module]:
        """Transformer, autoencoder and text encoder."""
        with torch.device("meta"):
            transformer = QwenImageTransformer2DModel.from_config(self.transformer)
            shares.shrink(transformer, 0, self.cards)
            decoder = AutoencoderKLQwenImage.from_config(self.autoencoder)
            return (
                transformer,
                autoencoder.flatten_time(nn.Module.to(decoder, torch.bfloat16)),
                Qwen2_5_VLForConditionalGeneration(self.text_encoder),
            )

    def two_blocks(self, form: str, dtype: torch.dtype = torch.bfloat16) -> QwenImageTransformer2DModel:
        """Make as much of the transformer as a step's memory depends on: each block gives back what it took."""
        with torch.device("meta"):
            blocks = QwenImageTransformer2DModel.from_config({**self.transformer, "num_layers": 2})
        nn.Module.to(blocks, dtype)
        forms.keep(blocks, form)
        return make_rows_independent(blocks)


QWEN_IMAGE = Shape({}, {}, Qwen2_5_VLConfig(**_TEXT))


@dataclass(frozen=True)
class Needs:
    """Bytes on the device: of the weights, a step, and a decode, whole and in pieces."""

    weights: int
    step: int
    decode: int
    pieces: int

    @property
    def total(self) -> int:
        """What is needed at least; a decode runs beside a step."""
        return self.weights + self.step + self.pieces


def shape(card: ModelCard, cards: int = 1) -> Shape:
    """Read a model's configurations. Raises ModelUnavailable if they are not there."""
    try:
        return Shape(
            QwenImageTransformer2DModel.load_config(card.path, subfolder="transformer"),
            AutoencoderKLQwenImage.load_config(card.path, subfolder="vae"),
            AutoConfig.from_pretrained(card.path, subfolder="text_encoder"),
            cards,
        )
    except (OSError, ValueError) as error:
        raise ModelUnavailable(f"no Qwen-Image model at {card.path}: {error}") from error


def needs(
    shape: Shape, profile: MemoryProfile, size: tuple[int, int], rows: Sequence[int] = (ROWS,), text: int = TEXT
) -> list[Needs]:
    """Return what a profile takes in bf16 for steps of each number of rows, of pictures of a size (width, height)."""
    transformer, decoder, text_encoder = shape.parts
    grid, encoding = (size[1] // TILE, size[0] // TILE), [text_encoder]
    if profile.offload:  # each part is there, alone, while it runs
        encoding = [module for module in text_encoder.modules() if not list(module.children())]
    form = PLAIN if profile.offload else profile.form
    weights = forms.size(transformer, profile.form) + footprint.weights(decoder)
    weights += max(forms.size(part, form) for part in encoding)
    whole, pieces = (footprint.decode(decoder, grid, in_pieces=each) for each in (False, True))
    blocks = shape.two_blocks(profile.form)
    return [Needs(weights, footprint.step(blocks, each, [grid], text), whole, pieces) for each in rows]


def choose(
    name: str | None, card: ModelCard, device: torch.device, cards: int | None = None, *, by_plan: bool = False
) -> MemoryProfile:
    """Return the profile of a name, else of KILN_PROFILE; for "auto" the best that the device has room for, and log it.

    Where the transformer runs by a plan, weights in other forms are not tried, and refused. It is split over so many
    `cards`, else KILN_CARDS. A CPU keeps the model as it is. Raises ModelUnavailable for what cannot be.
    """
    name = name or os.environ.get("KILN_PROFILE") or AUTO
    said = str(cards or os.environ.get("KILN_CARDS") or 1)
    if not re.fullmatch("[0-9]{1,2}", said) or not 1 <= int(said) <= MOST_CARDS:
        raise ModelUnavailable(f"KILN_CARDS must be a whole number from 1 to {MOST_CARDS}, not {said}")
    count = int(said)
    if by_plan and count > 1:
        raise ModelUnavailable("a plan runs on one card")
    if name != AUTO:
        if name not in PROFILES:
            raise ModelUnavailable(f"KILN_PROFILE must be {AUTO} or one of {', '.join(PROFILES)}, not {name}")
        if by_plan and (form := PROFILES[name].form) != PLAIN:
            raise ModelUnavailable(f"weights in {form} are torch's; a plan has a precision of its own")
        return PROFILES[name]._replace(cards=count)
    if device.type != "cuda":
        return UNCHANGED._replace(cards=count)
    size, free = (card.default_width, card.default_height), torch.cuda.mem_get_info(device)[0]
    tried = [each for each in AUTOMATIC if not by_plan or PROFILES[each].form == PLAIN]
    return fitting(shape(card, count), size, free, tried)._replace(cards=count)


def fitting(model: Shape, size: tuple[int, int], free: int, tried: Sequence[str] = AUTOMATIC) -> MemoryProfile:
    """Return the first profile tried that fits into so many bytes; the last, with a warning, if none does."""
    refused: list[str] = []
    for name in tried:
        profile = PROFILES[name]
        total = needs(model, profile, size)[0].total
        if total <= free * USABLE:
            why = f"; {', '.join(refused)} would not fit" if refused else ""
            log.info("memory profile %s: %s of %s free%s", name, _gib(total), _gib(free), why)
            return profile
        refused.append(f"{name} ({_gib(total)})")
    log.warning("no memory profile fits into %s: %s; trying %s", _gib(free), ", ".join(refused), name)
    return profile


def _gib(size: int) -> str:
    return f"{size / GIB:.1f} GiB"


def _table(shape: Shape, side: int, rows: Sequence[int]) -> list[list[str]]:
    lines = [["profile", "weights", *(f"step, {each} rows" for each in rows), "decode", "in pieces", "fits into"]]
    for profile in PROFILES.values():
        found = needs(shape, profile, (side, side), rows)
        cards = [f"{card} GB" for card in CARDS if found[0].total <= card * 1e9 * USABLE]
        numbers = [found[0].weights, *(each.step for each in found), found[0].decode, found[0].pieces]
        lines.append([profile.name, *(f"{number / GIB:.2f}" for number in numbers), ", ".join(cards) or "none of them"])
    return lines


def main(show: Callable[[str], None] = print) -> None:
    """Print what each profile takes, in GiB."""
    parser = argparse.ArgumentParser(
        prog="python -m inference.memory_profiles", description="What each memory profile of a model takes, in GiB."
    )
    parser.add_argument("--model", help="a diffusers folder or hub name (default: KILN_MODEL, else the house model)")
    parser.add_argument("--qwen-image", action="store_true", help="Qwen-Image's published sizes, with nothing at hand")
    parser.add_argument("--side", type=int, default=1024, metavar="PIXELS", help="of a square picture (1024)")
    parser.add_argument("--rows", type=int, nargs="+", default=[2, 8], help="of a step; a guided picture has two (2 8)")
    parser.add_argument(
        "--cards", type=int, default=1, help="over which the transformer is split; told of the first (1)"
    )
    options = parser.parse_args()
    model = QWEN_IMAGE if options.qwen_image else shape(catalog.card(options.model))
    model = replace(model, cards=options.cards)
    rows = _table(model, options.side, options.rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        show("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


if __name__ == "__main__":
    main()
