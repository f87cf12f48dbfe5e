"""Samples of a transformer in training: held-out captions, open captions and edits, with the judge's verdicts."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import QwenImageTransformer2DModel
from diffusers.pipelines.qwenimage.pipeline_qwenimage import calculate_shift
from PIL import Image, ImageDraw

from inference.house_model import architecture, open_captions, text, vae
from inference.house_model.captions import LANGUAGES, caption
from inference.house_model.edits import draw_edit, instruction
from inference.house_model.judge import is_clear, judge
from inference.house_model.pool import Frozen, normalise
from inference.house_model.transformer import Batch, RealRotation, Size, predict, rotations
from inference.house_model.world import Pixels, draw_scene, render

# (width, height) of captions' pictures, and how many
CAPTIONS: dict[Size, int] = {(128, 128): 40, (256, 256): 16, (512, 512): 4}
OPEN, EDITED = 24, {(128, 128): 32, (256, 256): 8}
COLUMNS = 8
STEPS = 12
GUIDANCE = 3.0

States = tuple[torch.Tensor, torch.Tensor]


def sheet(pictures: Sequence[Pixels], right: Sequence[bool]) -> Image.Image:
    """Draw pictures of one size in rows of COLUMNS, with a red corner on those that are wrong."""
    height, width = pictures[0].shape[:2]
    whole = Image.new("RGB", (COLUMNS * (width + 4), -(-len(pictures) // COLUMNS) * (height + 4)), "white")
    pen = ImageDraw.Draw(whole)
    for index, (picture, followed) in enumerate(zip(pictures, right, strict=True)):
        x, y = index % COLUMNS * (width + 4), index // COLUMNS * (height + 4)
        whole.paste(Image.fromarray(picture), (x, y))
        if not followed:
            pen.rectangle((x, y, x + 9, y + 9), fill="red", outline="white")
    return whole


class Sampler:
    """A loop of guided steps as in the engine, on the training's own forward."""

    def __init__(self, frozen: Frozen, transformer: QwenImageTransformer2DModel) -> None:
        self._frozen, self._transformer = frozen, transformer.eval()
        for block in transformer.transformer_blocks:
            block.attn.set_processor(RealRotation())

    @torch.no_grad()
    def draw(self, prompts: Sequence[str], size: Size) -> list[Pixels]:
        """Draw a picture of each prompt."""
        reader = self._frozen.reader
        return self._sampled(size, reader.prompts(prompts), reader.prompts([" "] * len(prompts)), None)

    @torch.no_grad()
    def edit(self, instructions: Sequence[str], befores: Sequence[Pixels], shown: Sequence[Pixels]) -> list[Pixels]:
        """Edit each picture of one size; `shown` are the same pictures as the text encoder sees them."""
        frozen = self._frozen
        height, width = befores[0].shape[:2]
        latents = normalise(frozen.autoencoder, vae.encode(frozen.autoencoder, vae.to_tensor(np.stack(befores))))
        wanted, unwanted = (frozen.reader.instructions(asked, shown) for asked in (instructions, [" "] * len(shown)))
        return self._sampled((width, height), wanted, unwanted, architecture.pack(latents))

    def _sampled(self, size: Size, wanted: States, unwanted: States, given: torch.Tensor | None) -> list[Pixels]:
        width, height = size
        rows, count = len(wanted[0]), width * height // 256
        noise = torch.randn(rows, count, 4 * architecture.LATENT_CHANNELS, generator=torch.Generator().manual_seed(0))
        given = noise[:, :0] if given is None else given
        pictures = 2 if given.shape[1] else 1
        schedule = architecture.sampler()
        config = schedule.config
        shift = calculate_shift(
            count, config.base_image_seq_len, config.max_image_seq_len, config.base_shift, config.max_shift
        )
        schedule.set_timesteps(sigmas=np.linspace(1.0, 1 / STEPS, STEPS), mu=shift)
        sides = []
        for states, lengths in (wanted, unwanted):
            present = torch.arange(states.shape[1])[None] < lengths[:, None]
            turned = rotations(self._transformer, size, pictures, states.shape[1])
            sides.append(Batch(noise, given, states, present, turned))
        tokens = noise
        for now, then in zip(schedule.sigmas, schedule.sigmas[1:], strict=False):
            towards, away = (predict(self._transformer, side, tokens, now.expand(rows)) for side in sides)
            guided = away + GUIDANCE * (towards - away)
            # the norm of each token stays that of the prompt's prediction, as in the pipeline
            guided = guided * towards.norm(dim=-1, keepdim=True) / guided.norm(dim=-1, keepdim=True)
            tokens = tokens + (then - now) * guided
        return self._decoded(tokens, size)

    def _decoded(self, tokens: torch.Tensor, size: Size) -> list[Pixels]:
        autoencoder = self._frozen.autoencoder
        channels, rows, columns = architecture.LATENT_CHANNELS, size[1] // 16, size[0] // 16
        tiles = tokens.view(len(tokens), rows, columns, channels, 2, 2).permute(0, 3, 1, 4, 2, 5)
        latents = tiles.reshape(len(tokens), channels, 1, 2 * rows, 2 * columns)
        mean, std = (
            torch.tensor(values).view(1, -1, 1, 1, 1)
            for values in (autoencoder.config.latents_mean, autoencoder.config.latents_std)
        )
        decoded = autoencoder.decoder(autoencoder.post_quant_conv(latents * std + mean))[:, :, 0]
        levels = ((decoded.clamp(-1, 1) / 2 + 0.5) * 255).round().byte().permute(0, 2, 3, 1)
        return list(levels.numpy())


def look(out: Path, frozen: Frozen, transformer: QwenImageTransformer2DModel, step: int) -> dict[str, Any]:
    """Draw held-out captions, open ones and edits, write `out`/sheets/STEP-*.png, and return the shares that are right.

    An open caption is right if its picture is a clear scene, whichever.
    """
    dice, sampler = random.Random(7), Sampler(frozen, transformer)
    (out / "sheets").mkdir(exist_ok=True)
    found = {}

    def judged(name: str, pictures: Sequence[Pixels], right: Sequence[bool]) -> None:
        sheet(pictures, right).save(out / "sheets" / f"{step:06d}-{name}.png")
        found[name] = round(float(np.mean(right)), 3)

    for size, count in CAPTIONS.items():
        scenes = [draw_scene(dice, held_out=True, pair_share=0.3) for _ in range(count)]
        drawn = sampler.draw([caption(scene, dice, LANGUAGES[index % 2]) for index, scene in enumerate(scenes)], size)
        judged(f"captions {size[0]}", drawn, [judge(*pair).followed for pair in zip(scenes, drawn, strict=True)])
    languages = [LANGUAGES[index % 2] for index in range(OPEN)]
    opened = [open_captions.sentence(open_captions.draw_open_scene(dice), dice, language)[0] for language in languages]
    drawn = sampler.draw(opened, (128, 128))
    judged("open", drawn, [is_clear(picture) for picture in drawn])
    drawn = sampler.draw([open_captions.foreign_text(dice, language) for language in languages], (128, 128))
    judged("foreign", drawn, [is_clear(picture) for picture in drawn])
    for size, count in EDITED.items():
        edits = [draw_edit(dice, held_out=True) for _ in range(count)]
        befores = [render(edit.before, *size) for edit in edits]
        asked = [instruction(edit, dice, LANGUAGES[index % 2]) for index, edit in enumerate(edits)]
        drawn = sampler.edit(asked, befores, [text.thumbnail(edit.before, *size) for edit in edits])
        right = [judge(edit.after, picture).followed for edit, picture in zip(edits, drawn, strict=True)]
        judged(f"edits {size[0]}", [np.concatenate(pair, axis=1) for pair in zip(befores, drawn, strict=True)], right)
    return found
