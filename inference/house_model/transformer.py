"""Training of the transformer on flow matching, from pools of latents and text features.

x_t = (1 - t) x_0 + t ε, and the model learns ε - x_0 (Lipman et al. 2023; for the times Esser et al. 2024). The blocks
are diffusers' own; RoPE is computed with real numbers here, which the compiler can fuse.
"""

import json
import logging
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import QwenImageTransformer2DModel
from diffusers.models.attention_processor import Attention
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch.nn import functional

from inference.house_model import architecture, text
from inference.house_model.pace import Average, Pace
from inference.house_model.pool import TEXT_ROOM, Frozen, Pool, load_frozen, load_or_build
from inference.house_model.progress import look

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Share:
    """One picture size: edits in its pool, rows a batch, and its shares of the batches, for pictures and for edits."""

    edits: int
    rows: int
    pictures: float
    edited: float


# (width, height); the rows of a batch of edits are half as many, since the picture before is joined to each
SIZES = {
    (128, 128): Share(12288, 64, 0.09, 0.28),
    (64, 64): Share(2048, 128, 0.03, 0.02),
    (192, 128): Share(2048, 40, 0.05, 0.06),
    (128, 192): Share(2048, 40, 0.05, 0.06),
    (192, 192): Share(2048, 28, 0.07, 0.06),
    (256, 256): Share(2048, 16, 0.15, 0.08),
}
FIRST_SIZE_ONLY = 0.1
# English, Chinese and partial
CAPTIONS = (0.38, 0.38, 0.24)
# English, Chinese (more often, since it is followed less well at equal shares), and empty
INSTRUCTIONS = (0.3, 0.5, 0.2)
EMPTY_PROMPTS = ("", " ")
EMPTY_SHARE = 0.1
RATE = 2e-3
RATE_FROM_FORMER = 1.5e-3
CHECKPOINT_SECONDS = 300
LOOK_SECONDS = 600

Rotation = tuple[torch.Tensor, torch.Tensor]


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


def _rotations(model: QwenImageTransformer2DModel, pool: Pool, pictures: int) -> tuple[Rotation, Rotation]:
    shapes = [[(1, pool.height // 16, pool.width // 16)] * pictures]
    image, prompt = model.pos_embed(shapes, max_txt_seq_len=TEXT_ROOM, device=torch.device("cpu"))
    return tuple((x.real.float()[:, None].contiguous(), x.imag.float()[:, None].contiguous()) for x in (image, prompt))  # type: ignore[return-value]


def _times(rows: int) -> torch.Tensor:
    # mostly on the noisy side, where layout and shapes are decided; a fifth are uniform
    times = torch.sigmoid(0.5 + 1.2 * torch.randn(rows))
    return torch.where(torch.rand(rows) < 0.2, torch.rand(rows), times)


def _batches(model: QwenImageTransformer2DModel, frozen: Frozen, pools: list[Pool], pace: Pace) -> Iterator[Batch]:
    dice = random.Random(pace.step)
    empty, empty_lengths = text.padded(*frozen.reader.prompts(EMPTY_PROMPTS), TEXT_ROOM)
    kinds = [
        (pool, share, edited) for pool, share in zip(pools, SIZES.values(), strict=True) for edited in (False, True)
    ]
    chances = [share.edited if edited else share.pictures for _, share, edited in kinds]
    first = [chance if pool is pools[0] else 0.0 for (pool, _, _), chance in zip(kinds, chances, strict=True)]
    rotations = [_rotations(model, pool, 1 + edited) for pool, _, edited in kinds]
    captions, instructions = torch.tensor(CAPTIONS), torch.tensor(INSTRUCTIONS)
    while True:
        which = dice.choices(range(len(kinds)), first if pace.share < FIRST_SIZE_ONLY else chances)[0]
        pool, share, edited = kinds[which]
        if edited:
            chosen = torch.randint(pool.edits, (share.rows // 2,))
            texts, present = pool.instructions.pick(chosen, instructions.multinomial(len(chosen), replacement=True))
            tokens, given = pool.tokens[chosen + pool.edits].float(), pool.tokens[chosen].float()
        else:
            chosen = torch.randint(len(pool.tokens), (share.rows,))
            texts, present = pool.captions.pick(chosen, captions.multinomial(len(chosen), replacement=True))
            dropped, nothing = torch.rand(share.rows) < EMPTY_SHARE, torch.randint(len(EMPTY_PROMPTS), (share.rows,))
            texts = torch.where(dropped[:, None, None], empty[nothing], texts)
            left = torch.arange(TEXT_ROOM)[None] < empty_lengths[nothing][:, None]
            present = torch.where(dropped[:, None], left, present)
            tokens = pool.tokens[chosen].float()
            given = tokens[:, :0]
        yield Batch(tokens, given, texts, present, rotations[which])


def _optimizers(model: QwenImageTransformer2DModel, rate: float) -> list[tuple[torch.optim.Optimizer, float]]:
    matrices = [p for p in model.transformer_blocks.parameters() if p.ndim == 2]
    ours = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in ours]
    muon = torch.optim.Muon(matrices, weight_decay=0.02, adjust_lr_fn="match_rms_adamw")
    return [(muon, rate), (torch.optim.AdamW(others, betas=(0.9, 0.98), weight_decay=0.0), rate)]


def _save(out: Path, model: QwenImageTransformer2DModel, average: Average, pace: Pace) -> None:
    state = {"step": pace.step, "spent": pace.spent}
    both = {f"model.{name}": value for name, value in model.state_dict().items()}
    both |= {f"average.{name}": value for name, value in average.weights.items()}
    save_file(both, out / "transformer.new", metadata={"pace": json.dumps(state)})
    (out / "transformer.new").rename(out / "transformer.safetensors")


def load(out: Path, part: str = "average") -> QwenImageTransformer2DModel:
    """Load the transformer of the last checkpoint in `out`, with its averaged weights, or with "model" the raw ones."""
    model = architecture.transformer()
    weights = load_file(out / "transformer.safetensors")
    model.load_state_dict({k.removeprefix(f"{part}."): v for k, v in weights.items() if k.startswith(f"{part}.")})
    return model


def _resume(out: Path, seconds: float, former: Path | None) -> tuple[QwenImageTransformer2DModel, Average, Pace]:
    if not (out / "transformer.safetensors").exists():
        if former:
            folder = former / "transformer"
            model = QwenImageTransformer2DModel.from_pretrained(folder, torch_dtype=torch.float32).train()
        else:
            model = architecture.transformer()
        return model, Average(model, 0.998), Pace("transformer", seconds)
    model, average = load(out, "model"), Average(load(out), 0.998)
    average.follow(model)
    with safe_open(out / "transformer.safetensors", "pt") as checkpoint:
        state = json.loads(checkpoint.metadata()["pace"])
    return model, average, Pace("transformer", seconds, state["spent"], state["step"])


def train(out: Path, seconds: float, former: Path | None = None, drawing: int = 0) -> None:
    """Train, or resume, from the checkpoints in `out` until `seconds` of training are used; save checkpoints.

    Without a checkpoint the transformer starts from that of the exported model `former`, or from scratch. `drawing`
    numbers the pools.
    """
    frozen = load_frozen(out)
    pools = [load_or_build(out, frozen, *size, share.edits, drawing) for size, share in SIZES.items()]
    model, average, pace = _resume(out, seconds, former)
    for block in model.transformer_blocks:
        block.attn.set_processor(RealRotation())
        block.compile()
    optimizers = _optimizers(model, RATE_FROM_FORMER if former else RATE)
    saved = looked = pace.spent
    for batch in pace.steps(_batches(model, frozen, pools, pace)):
        times, noise = _times(len(batch.tokens)), torch.randn_like(batch.tokens)
        noisy = batch.tokens + times[:, None, None] * (noise - batch.tokens)
        with torch.autocast("cpu", torch.bfloat16):
            predicted = predict(model, batch, noisy, times)
        loss = functional.mse_loss(predicted.float(), noise - batch.tokens)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, rate in optimizers:
            optimizer.param_groups[0]["lr"] = rate * pace.rate()
            optimizer.step()
            optimizer.zero_grad()
        average.update()
        pace.report(loss.detach())
        if pace.spent - saved > CHECKPOINT_SECONDS:
            _save(out, model, average, pace)
            saved = pace.spent
        if pace.spent - looked > LOOK_SECONDS:
            look(out, frozen, load(out), pace.step)
            looked = pace.spent
    _save(out, model, average, pace)
