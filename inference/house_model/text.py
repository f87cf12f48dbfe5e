"""Training of the text encoder to recognise a scene by its caption and an edit by its instruction.

The classifying heads are discarded afterwards; what stays is an encoder whose states hold the scene.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import nn
from torch.nn import functional
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer

from inference.house_model import edits
from inference.house_model.captions import LANGUAGES, caption
from inference.house_model.open_captions import draw_open_scene, open_caption
from inference.house_model.pace import Pace
from inference.house_model.stage import Stage
from inference.house_model.tokenizer import EDIT_TOKENS, TEMPLATE_TOKENS, in_edit_template, in_template
from inference.house_model.world import (
    COLOURS,
    PATTERNS,
    POSITIONS,
    SHAPES,
    SIZES,
    Pixels,
    Scene,
    draw_scene,
    render,
)
from inference.models.processor import PictureProcessor

# captions a batch, how many of them are open, and instructions
BATCH, OPEN, INSTRUCTIONS = 64, 26, 32
RATE, DECAY = 2e-3, 0.995
# the shorter side of the pictures shown, and shapes of pictures
THUMBNAIL = 64
SHAPED = ((128, 128), (128, 128), (192, 128), (128, 192), (512, 384))
# <|im_end|> \n <|im_start|> assistant \n: each of them learns the whole scene
CLOSING_TOKENS = 5
ABSENT = -100
UNSAID = "unsaid"
SHAPE_PARTS: dict[str, tuple[str, ...]] = {
    "kind": SHAPES,
    "colour": tuple(COLOURS),
    "position": tuple(POSITIONS),
    "size": tuple(SIZES),
}
# what a caption tells about a scene, and an instruction about an edit
SCENE_PARTS: dict[str, tuple[str, ...]] = {
    "background": tuple(COLOURS),
    "pattern": PATTERNS,
    **{f"{part} {which}": names for which in ("first", "second") for part, names in SHAPE_PARTS.items()},
    "count": ("0", "1", "2"),
}
EDIT_PARTS: dict[str, tuple[str, ...]] = {
    "verb": edits.VERBS,
    "target": SHAPES,
    "colour": tuple(COLOURS),
    "kind": SHAPES,
    "position": tuple(POSITIONS),
}
Parts = dict[str, tuple[str, ...]]


def _classes(parts: Parts, values: dict[str, str]) -> list[int]:
    """Return class numbers in the order of `parts`; the class after the last name means that a part is unsaid."""
    numbers = {name: {value: index for index, value in enumerate((*names, UNSAID))} for name, names in parts.items()}
    return [numbers[name][values[name]] if name in values else ABSENT for name in parts]


def scene_targets(scene: Scene, said: frozenset[str] | None = None) -> list[int]:
    """Return a scene's class numbers in the order of SCENE_PARTS, ABSENT for the parts of a missing shape.

    `said` names the parts that an open caption decides; None: all of them.
    """
    values = {"background": scene.background, "pattern": scene.pattern, "count": str(len(scene.shapes))}
    for which, shape in zip(("first", "second"), scene.shapes, strict=False):
        values |= {f"{part} {which}": getattr(shape, part) for part in SHAPE_PARTS}
    if said is not None:
        values = {name: value if name in said else UNSAID for name, value in values.items()}
    return _classes(SCENE_PARTS, values)


def edit_targets(edit: edits.Edit) -> list[int]:
    """Return an edit's class numbers in the order of EDIT_PARTS."""
    told = {"recolour": "colour", "replace": "kind", "move": "position"}
    values = dict.fromkeys(EDIT_PARTS, UNSAID) | {"verb": edit.verb}
    if edit.was:
        values["target"] = edit.was.kind
    if edit.verb == "background":
        values["colour"] = edit.after.background
    elif edit.now:
        values[told[edit.verb]] = getattr(edit.now, told[edit.verb])
    return _classes(EDIT_PARTS, values)


class Heads(nn.Module):
    """Linear classifiers, one for each part."""

    def __init__(self, width: int, parts: Parts) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(width, len(names) + 1) for names in parts.values()])

    def loss(self, states: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        """Return the summed cross-entropy of states (batch, tokens, width) and class numbers (batch, parts)."""
        losses = []
        for layer, column in zip(self.layers, wanted.T, strict=True):
            repeated = column[:, None].expand(-1, states.shape[1]).flatten()
            losses.append(functional.cross_entropy(layer(states).flatten(0, 1), repeated, ignore_index=ABSENT))
        return torch.stack(losses).sum()


class Reader:
    """An encoder of prompts and instructions, template included, as in the pipelines' `encode_prompt`."""

    def __init__(self, model: Qwen2_5_VLForConditionalGeneration, processor: PictureProcessor) -> None:
        self.model, self._processor = model, processor
        self.words: Qwen2Tokenizer = processor.tokenizer

    def prompts(self, prompts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the states (batch, tokens, width) behind the template, and their lengths (batch,)."""
        tokens = self.words(
            [in_template(prompt) for prompt in prompts], padding=True, padding_side="right", return_tensors="pt"
        )
        return self._states(dict(tokens), TEMPLATE_TOKENS)

    def instructions(
        self, instructions: Sequence[str], pictures: Sequence[Pixels]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the same for instructions, each about its picture (height, width, 3)."""
        inputs = self._processor(
            text=[in_edit_template(text) for text in instructions],
            images=[Image.fromarray(picture) for picture in pictures],
            padding=True,
            return_tensors="pt",
        )
        return self._states(dict(inputs), EDIT_TOKENS)

    def _states(self, inputs: dict[str, torch.Tensor], template: int) -> tuple[torch.Tensor, torch.Tensor]:
        output = self.model.model(**inputs, output_hidden_states=True, use_cache=False)
        return output.hidden_states[-1][:, template:], inputs["attention_mask"].sum(dim=1) - template


def _closing(states: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    closing = lengths[:, None] - torch.arange(CLOSING_TOKENS, 0, -1)
    return states.gather(1, closing[..., None].expand(-1, -1, states.shape[-1]))


@dataclass(frozen=True)
class Examples:
    """A batch of captions, the first OPEN of them open, and a batch of instructions with pictures."""

    captions: list[str]
    scenes: torch.Tensor
    instructions: list[str]
    edits: torch.Tensor
    pictures: list[Pixels]


def thumbnail(scene: Scene, width: int, height: int) -> Pixels:
    """Draw a scene as small as the encoder sees it, in the shape of a picture of this size."""
    scale = THUMBNAIL / min(width, height)
    return render(scene, round(width * scale), round(height * scale))


def _examples(dice: random.Random) -> Iterator[Examples]:
    while True:
        captions, scenes = [], []
        for _ in range(OPEN):
            scene = draw_open_scene(dice)
            text, said = open_caption(scene, dice, dice.choice(LANGUAGES))
            captions.append(text)
            scenes.append(scene_targets(scene, said))
        while len(captions) < BATCH:
            edit = edits.draw_edit(dice) if dice.random() < 0.2 else None
            scene = edit.after if edit else draw_scene(dice, pair_share=0.35)
            captions.append(caption(scene, dice, dice.choice(LANGUAGES)))
            scenes.append(scene_targets(scene))
        chosen = [edits.draw_edit(dice) for _ in range(INSTRUCTIONS)]
        yield Examples(
            captions,
            torch.tensor(scenes),
            [edits.instruction(edit, dice, dice.choice(LANGUAGES)) for edit in chosen],
            torch.tensor([edit_targets(edit) for edit in chosen]),
            [thumbnail(edit.before, *dice.choice(SHAPED)) for edit in chosen],
        )


def adopt(reader: Reader, former: Reader) -> None:
    """Start from a former encoder: its weights, and its embedding of every token that both vocabularies have."""
    mine, theirs = reader.model.state_dict(), former.model.state_dict()
    ours, old = reader.words.get_vocab(), former.words.get_vocab()
    both = [token for token in ours if token in old]
    for name, value in theirs.items():
        if value.shape == mine[name].shape:
            mine[name].copy_(value)
        else:
            mine[name][[ours[token] for token in both]] = value[[old[token] for token in both]]


def train(reader: Reader, checkpoint: Path, pace: Pace, former: Reader | None = None) -> None:
    """Train in place until the pace's time is up, then freeze.

    With a former encoder, start from it and preserve its states of whole captions, which the transformer already knows.
    """
    if former:
        adopt(reader, former)
    width = reader.model.config.text_config.hidden_size
    scene_heads, edit_heads = Heads(width, SCENE_PARTS), Heads(width, EDIT_PARTS)
    trained = nn.ModuleList([reader.model.model, scene_heads, edit_heads])
    optimizer = torch.optim.AdamW(trained.parameters(), betas=(0.9, 0.98), weight_decay=0.01)
    stage = Stage(checkpoint, pace, trained, [(optimizer, RATE)], DECAY)
    for batch in stage.steps(_examples(random.Random(pace.step + 4))):
        states, lengths = reader.prompts(batch.captions)
        loss = scene_heads.loss(_closing(states, lengths), batch.scenes)
        if former:
            with torch.no_grad():
                kept, _ = former.prompts(batch.captions)
            present = torch.arange(states.shape[1])[None] < lengths[:, None]
            present[:OPEN] = False
            loss = loss + 10 * (states - kept).square().mean(dim=-1)[present].mean()
        loss = loss + edit_heads.loss(_closing(*reader.instructions(batch.instructions, batch.pictures)), batch.edits)
        stage.learn([loss])
    reader.model.requires_grad_(False)
