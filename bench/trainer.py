"""Measures the trainer beside diffusers' own training step: `python -m bench.trainer [--quick]`.

The other side is what diffusers' example script for LoRA of Qwen-Image does in a step: the model as it is, PEFT's
layers added by `add_adapter`, texts padded to the longest with a mask, the plain mean squared error of the velocity,
gradients clipped, AdamW. Both sides start from the same factors and learn from the same batches: pictures, latents,
captions, noise and noise levels. They take turns, step by step, in one process; the ratio of steps a second is the
median over the steps, with quartiles, in processor time on one thread, so that other work on the machine matters
little. Kiln's step also draws the batch and averages the weights.
"""

import json
import statistics
import sys
import time
from collections.abc import Mapping
from typing import Any

import torch
from diffusers import QwenImageTransformer2DModel
from peft import LoraConfig
from torch.nn import functional

from bench.engine import spread
from inference.models import catalog, qwen_image
from inference.training import batches, styles
from inference.training.batches import Batch
from inference.training.hyperparameters import LAYERS, Hyperparameters
from inference.training.trainer import Trainer

CASES = {"128 by 128, 12 pictures a step": ("palette", 128, 12), "192 by 192, 6 pictures a step": ("frame", 192, 6)}


class Diffusers:
    """The example script's step on a transformer that nothing of Kiln has touched."""

    def __init__(self, chosen: Hyperparameters, factors: Mapping[str, torch.Tensor]) -> None:
        self.transformer = QwenImageTransformer2DModel.from_pretrained(catalog.card().path, subfolder="transformer")
        self.transformer.requires_grad_(False)
        config = LoraConfig(
            r=chosen.rank,
            lora_alpha=chosen.alpha,
            init_lora_weights="gaussian",
            target_modules=list(LAYERS[chosen.layers]),
        )
        self.transformer.add_adapter(config)
        named = self.transformer.state_dict()
        for name, value in factors.items():
            named[name.replace(".weight", ".default.weight")].copy_(value)
        self.transformer.train()
        self.parameters = [each for each in self.transformer.parameters() if each.requires_grad]
        self.optimizer = torch.optim.AdamW(self.parameters, betas=(0.9, 0.99), weight_decay=0.0)

    def step(self, batch: Batch, rate: float) -> float:
        rows, columns = batch.grids[0]
        longest = max(map(len, batch.texts))
        texts = torch.stack([functional.pad(text, (0, 0, 0, longest - len(text))) for text in batch.texts])
        lengths = torch.tensor([[len(text)] for text in batch.texts])
        sigmas = batch.sigmas[:, None, None]
        predicted = self.transformer(
            hidden_states=(1 - sigmas) * batch.latents + sigmas * batch.noise,
            encoder_hidden_states=texts,
            encoder_hidden_states_mask=torch.arange(longest)[None] < lengths,
            timestep=batch.sigmas,
            img_shapes=[[(1, rows, columns)]] * len(texts),
            return_dict=False,
        )[0]
        loss = functional.mse_loss(predicted.float(), batch.noise - batch.latents)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.param_groups[0]["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad()
        return float(loss.detach())


def main(quick: bool = False) -> dict[str, Any]:
    """Measure and return the figures by case, JSON-ready."""
    torch.set_num_threads(1)
    return {"by case": {name: compare(*case, steps=6 if quick else 100) for name, case in CASES.items()}}


def compare(style: str, side: int, rows: int, steps: int) -> dict[str, Any]:
    """Train both ways, and return how far their losses are from one another, and how fast they are."""
    chosen = Hyperparameters(steps=350, batch=rows, resolution=side, held_out=0.0)
    model = qwen_image.load(catalog.card(), torch.device("cpu"))
    kiln = Trainer(model, catalog.card(), styles.examples(style, 0), chosen)
    diffusers = Diffusers(chosen, kiln.factors)
    losses: list[tuple[float, float]] = []
    seconds: list[tuple[float, float]] = []
    for step in range(steps):
        batch = batches.draw(kiln.learnt, chosen, step)
        began = time.thread_time()
        ours = kiln.step()
        between = time.thread_time()
        theirs = diffusers.step(batch, chosen.rate(step))
        losses.append((ours, theirs))
        seconds.append((between - began, time.thread_time() - between))
    apart = [abs(ours - theirs) / theirs for ours, theirs in losses]
    return {
        "steps": steps,
        "steps a second": round(1 / statistics.median(ours for ours, _ in seconds), 3),
        "diffusers'": round(1 / statistics.median(theirs for _, theirs in seconds), 3),
        **spread("ratio", [theirs / ours for ours, theirs in seconds[1:]]),
        "last losses": round(statistics.mean(ours for ours, _ in losses[-20:]), 4),
        "diffusers' last": round(statistics.mean(theirs for _, theirs in losses[-20:]), 4),
        "apart at the median": round(statistics.median(apart), 6),
        "at most": round(max(apart), 6),
    }


if __name__ == "__main__":
    print(json.dumps(main("--quick" in sys.argv), indent=2))
