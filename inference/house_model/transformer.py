"""Training of the transformer on flow matching, from pools of latents and text features.

x_t = (1 - t) x_0 + t ε, and the model learns ε - x_0 (Lipman et al. 2023; for the times Esser et al. 2024). The blocks
are diffusers' own; RoPE is computed with real numbers here, which the compiler can fuse.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import QwenImageTransformer2DModel
from diffusers.models.attention_processor import Attention
from torch.nn import functional

from inference.house_model import architecture, text
from inference.house_model.captions import LANGUAGES, caption
from inference.house_model.edits import instruction
from inference.house_model.open_captions import foreign_text, is_default, open_caption
from inference.house_model.pace import Pace
from inference.house_model.pool import Frozen, Pool, load_frozen, load_or_build
from inference.house_model.stage import Optimizers, Stage, averaged
from inference.house_model.world import Scene

Size = tuple[int, int]


@dataclass(frozen=True)
class Share:
    """One picture size: scenes in its pool, rows of a batch of pictures and of one of edits, its shares of each."""

    scenes: int
    rows: int
    edited_rows: int
    pictures: float
    edited: float


# (width, height); rows so that batches of all sizes take about as long, an edit more
SIZES: dict[Size, Share] = {
    (128, 128): Share(20000, 64, 32, 0.27, 0.38),
    (64, 64): Share(3000, 96, 48, 0.03, 0.03),
    (192, 128): Share(4000, 40, 20, 0.08, 0.08),
    (128, 192): Share(4000, 40, 20, 0.08, 0.08),
    (192, 192): Share(4000, 28, 14, 0.08, 0.08),
    (256, 256): Share(4000, 16, 8, 0.14, 0.12),
    (256, 128): Share(1600, 28, 14, 0.02, 0.02),
    (128, 256): Share(1600, 28, 14, 0.02, 0.02),
    (384, 256): Share(1600, 10, 4, 0.05, 0.04),
    (256, 384): Share(1600, 10, 4, 0.05, 0.04),
    (384, 384): Share(1200, 6, 3, 0.05, 0.04),
    (512, 384): Share(800, 4, 2, 0.05, 0.03),
    (384, 512): Share(800, 4, 2, 0.03, 0.02),
    (512, 512): Share(1000, 3, 1, 0.06, 0.03),
}
# from scratch, the share of the time in which only the first size is learnt
FIRST_SIZE_ONLY = 0.1
# pools used one after another
DRAWINGS = 3
OPEN, OPEN_BY_DEFAULT = 0.28, 0.6
EMPTY_PROMPTS, EMPTY = ("", " "), 0.1
# Chinese more often, since it is followed less well at equal shares
INSTRUCTIONS, INSTRUCTION_SHARES = (*LANGUAGES, ""), (0.35, 0.47, 0.18)
# bytes of a prompt, except in a few batches of long ones
SHORT, LONG, LONG_ROWS = 140, 0.03, 12
RATE, RATE_FROM_FORMER = 2e-3, 1.2e-3
DECAY = 0.998
LOOK_SECONDS = 1200

Rotation = tuple[torch.Tensor, torch.Tensor]
Look = Callable[[Path, Frozen, QwenImageTransformer2DModel, int], dict[str, Any]]


@dataclass
class Batch:
    """Rows of one size: clean tokens, tokens of a picture to edit (or none), text states, which of those are real, and
    the rotations of image and text."""

    tokens: torch.Tensor
    given: torch.Tensor
    texts: torch.Tensor
    present: torch.Tensor
    rotations: tuple[Rotation, Rotation]


def _rotate(x: torch.Tensor, rotation: Rotation) -> torch.Tensor:
    cos, sin = rotation
    even, odd = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1).flatten(3).type_as(x)


class RealRotation:
    """An attention processor that computes the same as diffusers' own, but with cosines and sines instead of complex
    numbers, and always with a mask."""

    def __call__(
        self,
        attn: Attention,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        encoder_hidden_states_mask: torch.Tensor,
        image_rotary_emb: tuple[Rotation, Rotation],
        attention_mask: None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        words = encoder_hidden_states.shape[1]
        image, prompt = hidden_states, encoder_hidden_states
        queries = [attn.norm_added_q(self._split(attn.add_q_proj(prompt))), attn.norm_q(self._split(attn.to_q(image)))]
        keys = [attn.norm_added_k(self._split(attn.add_k_proj(prompt))), attn.norm_k(self._split(attn.to_k(image)))]
        values = torch.cat([self._split(attn.add_v_proj(prompt)), self._split(attn.to_v(image))], dim=1)
        query, key = (
            torch.cat([_rotate(x, rotation) for x, rotation in zip(pair, image_rotary_emb[::-1], strict=True)], dim=1)
            for pair in (queries, keys)
        )
        mixed = functional.scaled_dot_product_attention(
            query.to(values.dtype).transpose(1, 2),
            key.to(values.dtype).transpose(1, 2),
            values.transpose(1, 2),
            attn_mask=encoder_hidden_states_mask[:, None, None],
        )
        mixed = mixed.transpose(1, 2).flatten(2)
        return attn.to_out[0](mixed[:, words:]), attn.to_add_out(mixed[:, :words])

    @staticmethod
    def _split(x: torch.Tensor) -> torch.Tensor:
        return x.view(*x.shape[:-1], architecture.HEADS, architecture.HEAD_WIDTH)


def predict(model: QwenImageTransformer2DModel, batch: Batch, noisy: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
    """Predict velocities of noisy tokens (rows, tokens, 32) at times (rows,) in 0..1, like the model's own forward."""
    image = model.img_in(torch.cat([noisy, batch.given], dim=1))
    prompt = model.txt_in(model.txt_norm(batch.texts))
    moment = model.time_text_embed(times, image)
    present = torch.cat([batch.present, batch.present.new_ones(image.shape[:2])], dim=1)
    for block in model.transformer_blocks:
        prompt, image = block(
            hidden_states=image,
            encoder_hidden_states=prompt,
            encoder_hidden_states_mask=present,
            temb=moment,
            image_rotary_emb=batch.rotations,
        )
    predicted: torch.Tensor = model.proj_out(model.norm_out(image[:, : noisy.shape[1]], moment))
    return predicted


def rotations(model: QwenImageTransformer2DModel, size: Size, pictures: int, words: int) -> tuple[Rotation, Rotation]:
    """Return the rotations of the tokens of `pictures` pictures of one size, and of `words` text tokens."""
    shapes = [[(1, size[1] // 16, size[0] // 16)] * pictures]
    image, prompt = model.pos_embed(shapes, max_txt_seq_len=words, device=torch.device("cpu"))
    return tuple((x.real.float()[:, None].contiguous(), x.imag.float()[:, None].contiguous()) for x in (image, prompt))  # type: ignore[return-value]


def _times(rows: int, tokens: int) -> torch.Tensor:
    # mostly on the noisy side, where layout and shapes are decided, more so in large pictures; a fifth are uniform
    noisier = 0.35 * torch.tensor(tokens / 64).log()
    times = torch.sigmoid(0.5 + noisier + 1.2 * torch.randn(rows))
    return torch.where(torch.rand(rows) < 0.2, torch.rand(rows), times)


def _caption(scene: Scene, dice: random.Random, longest: int) -> str:
    """Phrase a scene in whole or in part, in at most so many bytes."""
    opened = OPEN_BY_DEFAULT if is_default(scene) else OPEN
    while True:
        language = dice.choice(LANGUAGES)
        if scene.shapes and dice.random() < opened:
            prompt, _ = open_caption(scene, dice, language)
        else:
            prompt = caption(scene, dice, language)
        if len(prompt.encode()) <= longest:
            return prompt


class Batches:
    """An endless supply of batches, of pictures and of edits, from the pools of all sizes."""

    def __init__(self, model: QwenImageTransformer2DModel, frozen: Frozen, pools: Sequence[Pool], seed: int) -> None:
        self._model, self._reader, self._pools = model, frozen.reader, dict(zip(SIZES, pools, strict=True))
        self._dice = random.Random(seed)
        self._defaults = [row for row, scene in enumerate(pools[0].scenes) if is_default(scene)]

    def pictures(self, sizes: Sequence[Size]) -> Batch:
        """Return pictures of one of these sizes with their captions, some of them empty."""
        if self._defaults and self._dice.random() < LONG:  # a small pool may have none
            return self._long()
        size = self._dice.choices(sizes, [SIZES[size].pictures for size in sizes])[0]
        pool = self._pools[size]
        chosen = [self._dice.randrange(len(pool.scenes)) for _ in range(SIZES[size].rows)]
        prompts = [
            self._dice.choice(EMPTY_PROMPTS)
            if self._dice.random() < EMPTY
            else _caption(pool.scenes[row], self._dice, SHORT)
            for row in chosen
        ]
        return self._captioned(size, chosen, prompts)

    def _long(self) -> Batch:
        """Return a few pictures of the first size with prompts of any length that say nothing about the world."""
        size = next(iter(SIZES))
        chosen = self._dice.choices(self._defaults, k=LONG_ROWS)
        return self._captioned(size, chosen, [foreign_text(self._dice, self._dice.choice(LANGUAGES)) for _ in chosen])

    def edits(self, sizes: Sequence[Size]) -> Batch:
        """Return edits of pictures of one of these sizes with their instructions, some of them empty."""
        size = self._dice.choices(sizes, [SIZES[size].edited for size in sizes])[0]
        pool = self._pools[size]
        chosen = self._dice.choices(pool.edits, k=SIZES[size].edited_rows)
        languages = self._dice.choices(INSTRUCTIONS, INSTRUCTION_SHARES, k=len(chosen))
        asked = [
            instruction(edit, self._dice, language) if language else " "
            for (edit, _, _), language in zip(chosen, languages, strict=True)
        ]
        shown = [text.thumbnail(edit.before, *size) for edit, _, _ in chosen]
        before, after = [row for _, row, _ in chosen], [row for _, _, row in chosen]
        read = self._reader.instructions(asked, shown)
        return self._batch(size, pool.tokens[after].float(), pool.tokens[before].float(), read)

    def _captioned(self, size: Size, chosen: list[int], prompts: list[str]) -> Batch:
        tokens = self._pools[size].tokens[chosen].float()
        return self._batch(size, tokens, tokens[:, :0], self._reader.prompts(prompts))

    def _batch(
        self, size: Size, tokens: torch.Tensor, given: torch.Tensor, read: tuple[torch.Tensor, torch.Tensor]
    ) -> Batch:
        states, lengths = read
        present = torch.arange(states.shape[1])[None] < lengths[:, None]
        pictures = 2 if given.shape[1] else 1
        return Batch(tokens, given, states, present, rotations(self._model, size, pictures, states.shape[1]))


def _optimizers(model: QwenImageTransformer2DModel, rate: float) -> Optimizers:
    matrices = [p for p in model.transformer_blocks.parameters() if p.ndim == 2]
    ours = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in ours]
    muon = torch.optim.Muon(matrices, weight_decay=0.02, adjust_lr_fn="match_rms_adamw")
    return [(muon, rate), (torch.optim.AdamW(others, betas=(0.9, 0.98), weight_decay=0.0), rate)]


def load(out: Path) -> QwenImageTransformer2DModel:
    """Load the transformer of the last checkpoint in `out`, with its averaged weights."""
    model = architecture.transformer()
    model.load_state_dict(averaged(out / "transformer.pt"))
    return model


def _loss(model: QwenImageTransformer2DModel, batch: Batch) -> torch.Tensor:
    times, noise = _times(*batch.tokens.shape[:2]), torch.randn_like(batch.tokens)
    noisy = batch.tokens + times[:, None, None] * (noise - batch.tokens)
    with torch.autocast("cpu", torch.bfloat16):
        predicted = predict(model, batch, noisy, times)
    return functional.mse_loss(predicted.float(), noise - batch.tokens)


def _pairs(
    model: QwenImageTransformer2DModel, out: Path, frozen: Frozen, pace: Pace, *, at_once: bool
) -> Iterator[Iterator[Batch]]:
    """Yield a batch of pictures and one of edits at a time, from one drawing of the pools after another.

    `at_once` says whether all sizes are learnt from the start.
    """
    for drawing in range(min(int(DRAWINGS * pace.share), DRAWINGS - 1), DRAWINGS):
        pools = [load_or_build(out, frozen, *size, share.scenes, drawing) for size, share in SIZES.items()]
        for former in out.glob("pool-*.safetensors"):
            if not former.name.startswith(f"pool-{drawing}-"):
                former.unlink()
        batches = Batches(model, frozen, pools, seed=pace.step + drawing)
        while pace.share * DRAWINGS < drawing + 1 or drawing == DRAWINGS - 1:
            sizes = list(SIZES) if at_once or pace.share > FIRST_SIZE_ONLY else list(SIZES)[:1]
            yield (draw(sizes) for draw in (batches.pictures, batches.edits))


def train(out: Path, pace: Pace, former: Path | None, look: Look) -> None:
    """Train, or resume, from the checkpoints in `out` until the pace's time is up; now and then `look` at samples.

    Without a checkpoint the transformer starts from that of the exported model `former`, or from scratch.
    """
    frozen = load_frozen(out)
    if former:
        model = QwenImageTransformer2DModel.from_pretrained(former / "transformer", torch_dtype=torch.float32).train()
    else:
        model = architecture.transformer()
    stage = Stage(out / "transformer.pt", pace, model, _optimizers(model, RATE_FROM_FORMER if former else RATE), DECAY)
    for block in model.transformer_blocks:
        block.attn.set_processor(RealRotation())
        block.compile(dynamic=True)
    looked = pace.spent
    for pair in stage.steps(_pairs(model, out, frozen, pace, at_once=former is not None)):
        stage.learn(_loss(model, batch) for batch in pair)
        if pace.spent - looked > LOOK_SECONDS:
            stage.save()
            pace.sampled(look(out, frozen, load(out), pace.step))
            looked = pace.spent
    pace.sampled(look(out, frozen, load(out), pace.step))
