"""Training of the text encoder to tell a scene from its caption, and its features as the pipeline takes them.

The classifying heads are thrown away afterwards: what stays is an encoder whose states hold the scene.
"""

import random
from collections.abc import Iterator

import torch
from torch import nn
from torch.nn import functional
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer

from inference.house_model.captions import LANGUAGES, caption
from inference.house_model.pace import Pace
from inference.house_model.tokenizer import TEMPLATE_TOKENS, in_template
from inference.house_model.world import COLOURS, PATTERNS, POSITIONS, SHAPES, SIZES, Scene, draw_scene

BATCH = 64
# <|im_end|> \n <|im_start|> assistant \n: every one of them learns the whole scene
CLOSING_TOKENS = 5
ABSENT = -100
PARTS: dict[str, tuple[str, ...]] = {
    "background": tuple(COLOURS),
    "pattern": PATTERNS,
    **{
        f"{part} {which}": names
        for which in ("first", "second")
        for part, names in (
            ("kind", SHAPES),
            ("colour", tuple(COLOURS)),
            ("position", tuple(POSITIONS)),
            ("size", tuple(SIZES)),
        )
    },
    "count": ("1", "2"),
}


def targets(scene: Scene) -> list[int]:
    """Class numbers of a scene in the order of PARTS; ABSENT for a second shape that is not there."""
    first, second = scene.shapes[0], scene.shapes[1] if len(scene.shapes) == 2 else None
    names = {"background": scene.background, "pattern": scene.pattern, "count": str(len(scene.shapes))}
    for which, shape in (("first", first), ("second", second)):
        for part in ("kind", "colour", "position", "size"):
            names[f"{part} {which}"] = getattr(shape, part, "")
    return [classes.index(names[part]) if names[part] else ABSENT for part, classes in PARTS.items()]


class Heads(nn.Module):
    """One linear classifier a part of the scene."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(width, len(classes)) for classes in PARTS.values()])

    def loss(self, states: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        """Summed cross-entropy of (batch, tokens, width) states against (batch, parts) class numbers."""
        losses = []
        for layer, column in zip(self.layers, wanted.T, strict=True):
            repeated = column[:, None].expand(-1, states.shape[1]).flatten()
            losses.append(functional.cross_entropy(layer(states).flatten(0, 1), repeated, ignore_index=ABSENT))
        return torch.stack(losses).sum()


def _states(
    model: Qwen2_5_VLForConditionalGeneration, words: Qwen2Tokenizer, prompts: list[str]
) -> tuple[torch.Tensor, torch.Tensor]:
    tokens = words([in_template(prompt) for prompt in prompts], padding=True, padding_side="right", return_tensors="pt")
    output = model.model(
        input_ids=tokens.input_ids, attention_mask=tokens.attention_mask, output_hidden_states=True, use_cache=False
    )
    return output.hidden_states[-1], tokens.attention_mask.sum(dim=1)


def _examples(dice: random.Random) -> Iterator[tuple[list[str], torch.Tensor]]:
    while True:
        scenes = [draw_scene(dice, pair_share=0.35) for _ in range(BATCH)]
        prompts = [caption(scene, dice, dice.choice(LANGUAGES)) for scene in scenes]
        yield prompts, torch.tensor([targets(scene) for scene in scenes])


def train(model: Qwen2_5_VLForConditionalGeneration, words: Qwen2Tokenizer, pace: Pace) -> None:
    """Train in place until the pace's time is up, then freeze."""
    heads = Heads(model.config.text_config.hidden_size)
    trained = [*model.model.language_model.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(trained, betas=(0.9, 0.98), weight_decay=0.01)
    for prompts, wanted in pace.steps(_examples(random.Random(4))):
        optimizer.param_groups[0]["lr"] = 2e-3 * pace.rate()
        states, lengths = _states(model, words, prompts)
        closing = lengths[:, None] - torch.arange(CLOSING_TOKENS, 0, -1)
        loss = heads.loss(states.gather(1, closing[..., None].expand(-1, -1, states.shape[-1])), wanted)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        pace.report(loss.detach())
    model.requires_grad_(False)


@torch.no_grad()
def features(
    model: Qwen2_5_VLForConditionalGeneration, words: Qwen2Tokenizer, prompts: list[str], room: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Prompts → (batch, room, width) states without the template, zeros behind, and their (batch,) lengths.

    What the pipeline's `encode_prompt` returns, at a fixed length; raises ValueError where a prompt is longer.
    """
    states, lengths = _states(model, words, prompts)
    states, lengths = states[:, TEMPLATE_TOKENS:], lengths - TEMPLATE_TOKENS
    if int(lengths.max()) > room:
        raise ValueError(f"a prompt takes {int(lengths.max())} tokens, there is room for {room}")
    present = torch.arange(states.shape[1])[None] < lengths[:, None]
    filled = states.new_zeros(len(prompts), room, states.shape[2])
    filled[:, : states.shape[1]] = (states * present[..., None])[:, :room]
    return filled, lengths
