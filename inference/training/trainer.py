"""Trains an adapter by flow matching, step by step: x_t = (1 - t) x_0 + t ε, and the model learns ε - x_0 (Lipman et
al. 2023; for the noise levels Esser et al. 2024). The layers of the adapter are PEFT's (Hu et al. 2021, "LoRA"), the
transformer is diffusers' and runs as in the engine.

What is kept is a moving average of the weights, measured now and then; the best one is the result. A training that is
resumed from a checkpoint goes on as if it had never been stopped.
"""

import gc
import json
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from peft import LoraConfig
from PIL import Image
from torch import nn
from torch.nn import functional

from inference import memory
from inference.backends.pytorch import predict
from inference.card import ModelCard
from inference.errors import InvalidTraining, TrainingDiverged
from inference.house_model.pace import Average
from inference.models import transformer as rows
from inference.models.qwen_image import QwenImage
from inference.state import Grid
from inference.training import batches, checkpoint, encoded, samples
from inference.training.batches import Batch
from inference.training.examples import Example
from inference.training.hyperparameters import LARGE, LAYERS, TEXT, Hyperparameters
from inference.training.samples import Sample

# examples that measure where none is held out
MEASURED = 8
CHECKPOINT = "checkpoint.safetensors"
SAVE_SECONDS = 60
_ADAPTER = "trained"
_MOMENTS = ("exp_avg", "exp_avg_sq")
Judge = Callable[[Sequence[Image.Image]], float]
"""Says how good the samples are; the more the better."""


class Best(NamedTuple):
    """The best average of the weights so far: after how many steps, how good, and its weights."""

    step: int
    score: float
    factors: Mapping[str, torch.Tensor]


class Evaluation(NamedTuple):
    """The average of the weights after `step` steps: its loss on the examples that measure, its score, its samples."""

    step: int
    loss: float
    score: float
    images: list[Image.Image]


class Progress(NamedTuple):
    """What `Trainer.run` tells of a step, counted from 1: its loss, about how long the others will take, and how good
    the average of the weights is, if it was measured; `saved` says whether there is a new checkpoint."""

    step: int
    loss: float
    seconds_left: float
    evaluation: Evaluation | None
    saved: bool


class Trainer:
    """An adapter in training on one model, which is the trainer's own: it is changed, and loses its text encoder.

    `learnt` are the examples that are not held out, `factors` the adapter's weights by diffusers' names. `step_index`
    is how many steps are done, `best` the best average so far, if one was measured.
    """

    def __init__(
        self,
        model: QwenImage,
        card: ModelCard,
        examples: Sequence[Example],
        chosen: Hyperparameters,
        shown: Sequence[Sample] = (),
        judge: Judge | None = None,
    ) -> None:
        """Encode the examples, drop the model's text encoder, and put the adapter's layers into its transformer.

        The best average is the one with the least loss, or with the judge's highest score, the last one of several.
        """
        if judge and not shown:
            raise InvalidTraining("a judge needs samples")
        self.chosen, self.step_index = chosen, 0
        self.best: Best | None = None
        self._model, self._card, self._judge = model, card, judge
        encodings = list(encoded.encode(model, card, _shuffled(examples, chosen.seed), chosen.resolution))
        self._shown = [samples.prepare(model, card, sample, chosen.resolution) for sample in shown]
        model.drop_text_encoder()
        held_out = int(len(encodings) * chosen.held_out)
        self.learnt = encodings[: len(encodings) - held_out]
        self._measured = encodings[len(encodings) - held_out :] or encodings[:MEASURED]
        self._digest = encoded.digest(encodings)
        self._transformer = rows.make_rows_independent(model.transformer)
        self._dtype: torch.dtype = next(self._transformer.parameters()).dtype
        self.factors = self._inject()
        self._optimizer = torch.optim.AdamW(self.factors.values(), betas=(0.9, 0.99), weight_decay=0.0, fused=True)
        self._average = Average(self.factors, chosen.average)

    def _inject(self) -> dict[str, nn.Parameter]:
        """Add PEFT's layers, 32 bits, and return their weights by diffusers' names."""
        transformer, chosen = self._transformer, self.chosen
        transformer.requires_grad_(False)
        config = LoraConfig(
            r=chosen.rank, lora_alpha=chosen.alpha, target_modules=self._layers(), init_lora_weights="gaussian"
        )
        with torch.random.fork_rng():
            torch.manual_seed(chosen.seed)
            transformer.add_adapter(config, _ADAPTER)
        if transformer.num_parameters() >= LARGE:
            transformer.enable_gradient_checkpointing()
        found = {name: parameter for name, parameter in transformer.named_parameters() if ".lora_" in name}
        for parameter in found.values():
            parameter.data = parameter.data.float()
        return {name.replace(f".{_ADAPTER}", ""): parameter for name, parameter in found.items()}

    def _layers(self) -> list[str]:
        """Return the names of the layers that the adapter changes; the last block's text leads nowhere."""
        count = len(self._transformer.transformer_blocks)
        named = [(block, layer) for block in range(count) for layer in LAYERS[self.chosen.layers]]
        return [
            f"transformer_blocks.{block}.{layer}" for block, layer in named if block < count - 1 or layer not in TEXT
        ]

    @property
    def done(self) -> bool:
        """Whether all steps are done."""
        return self.step_index >= self.chosen.steps

    def step(self) -> float:
        """Take one step, and return its loss. Raises TrainingDiverged, and changes nothing, if it is not finite."""
        batch = batches.draw(self.learnt, self.chosen, self.step_index)
        loss = self.loss(batch)
        # so that each example weighs the same, also in a bucket with few
        (loss * len(batch.latents) / self.chosen.batch).backward()
        norm = nn.utils.clip_grad_norm_(self.factors.values(), 1.0)
        value = float(loss.detach())
        if not (loss + norm).isfinite():
            self._optimizer.zero_grad()
            raise TrainingDiverged(self.step_index + 1)
        self._optimizer.param_groups[0]["lr"] = self.chosen.rate(self.step_index)
        self._optimizer.step()
        self._optimizer.zero_grad()
        self._average.update()
        self.step_index += 1
        return value

    def loss(self, batch: Batch) -> torch.Tensor:
        """Return the mean squared error of the predicted velocities of a batch."""
        device = self._model.device
        latents, noise, sigmas = (each.to(device) for each in (batch.latents, batch.noise, batch.sigmas))
        noisy = latents + sigmas[:, None, None] * (noise - latents)
        tokens = torch.cat([noisy, batch.condition.to(device)], dim=1)
        predicted = self._velocity(tokens, sigmas, [text.to(device) for text in batch.texts], batch.grids)
        return functional.mse_loss(predicted, noise - latents)

    def _velocity(
        self, latents: torch.Tensor, sigmas: torch.Tensor, texts: Sequence[torch.Tensor], grids: Sequence[Grid]
    ) -> torch.Tensor:
        padded = nn.utils.rnn.pad_sequence(list(texts), batch_first=True)
        # factors and sums of a model in bf16 stay in 32 bits
        with torch.autocast(self._model.device.type, torch.bfloat16, enabled=self._dtype is torch.bfloat16):
            return predict(self._transformer, latents, sigmas, padded, list(map(len, texts)), grids)

    @torch.no_grad()
    def evaluate(self) -> Evaluation:
        """Measure the average of the weights, draw its samples, and keep it if it is the best so far."""
        with self._averaged():
            losses = [self.loss(batches.measuring(row, self.chosen.seed)) for row in self._measured]
            images = samples.draw(self._model, self._card, self._velocity, self._shown)
        loss = float(torch.stack(losses).mean())
        score = self._judge(images) if self._judge else -loss
        if self.best is None or score >= self.best.score:
            factors = {name: value.clone() for name, value in self._average.weights.items()}
            self.best = Best(self.step_index, score, factors)
        return Evaluation(self.step_index, loss, score, images)

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        """Run with the averaged weights."""
        own = {name: value.detach().clone() for name, value in self.factors.items()}
        self._average.copy_to()
        try:
            yield
        finally:
            with torch.no_grad():
                for name, value in own.items():
                    self.factors[name].copy_(value)

    def run(self, folder: Path, save_seconds: float = SAVE_SECONDS) -> Generator[Progress]:
        """Take all steps that are left, and tell of each.

        Goes on from the checkpoint in `folder`, and leaves one there every `save_seconds`, at the end, and when the
        caller closes the iterator. Each evaluation leaves its adapter there, as adapter-STEP.safetensors, and its
        samples, as samples-STEP.png. Raises TrainingDiverged, or InvalidTraining for a checkpoint of another training.
        """
        path = folder / CHECKPOINT
        if path.exists():
            self.resume(path)
        began, before = time.monotonic(), self.step_index
        saved = began
        try:
            while not self.done:
                loss = self.step()
                evaluation = None
                if self.done or self.step_index % self.chosen.every == 0:
                    evaluation = self._record(folder)
                if save := self.done or time.monotonic() - saved > save_seconds:
                    self.save(path)
                    saved = time.monotonic()
                left = (time.monotonic() - began) / (self.step_index - before) * (self.chosen.steps - self.step_index)
                yield Progress(self.step_index, loss, left, evaluation, save)
        except GeneratorExit:
            self.save(path)
            raise

    def _record(self, folder: Path) -> Evaluation:
        evaluation = self.evaluate()
        measured = Best(self.step_index, evaluation.score, self._average.weights)
        self.write(folder / f"adapter-{self.step_index:06d}.safetensors", measured)
        if evaluation.images:
            samples.sheet(evaluation.images).save(folder / f"samples-{self.step_index:06d}.png")
        return evaluation

    def save(self, path: Path) -> None:
        """Write a checkpoint, from which `resume` goes on."""
        moments = {
            f"{moment}.{name}": self._optimizer.state[factor][moment]
            for name, factor in self.factors.items()
            for moment in (_MOMENTS if self.step_index else ())
        }
        tensors = {
            **{f"factor.{name}": value for name, value in self.factors.items()},
            **{f"average.{name}": value for name, value in self._average.weights.items()},
            **{f"best.{name}": value for name, value in (self.best.factors if self.best else {}).items()},
            **moments,
        }
        updates = self._average.state_dict()["updates"]
        best = self.best and (self.best.step, self.best.score)
        checkpoint.write(path, tensors, {"step": self.step_index, "updates": updates, "best": best, **self._identity()})

    @torch.no_grad()
    def resume(self, path: Path) -> None:
        """Go on from a checkpoint. Raises InvalidTraining if it is of another training."""
        tensors, state = checkpoint.read(path)
        if differ := [name for name, value in self._identity().items() if state.get(name) != value]:
            raise InvalidTraining(f"{path.name} is the checkpoint of a training with other {' and '.join(differ)}")
        of = partial(_part, tensors)
        self.step_index = state["step"]
        for name, value in of("factor").items():
            self.factors[name].copy_(value)
        if state["best"]:
            step, score = state["best"]
            self.best = Best(step, score, of("best"))
        weights = {name: value.to(self._model.device) for name, value in of("average").items()}
        self._average.load_state_dict({"weights": weights, "updates": state["updates"]})
        moments = {moment: of(moment) for moment in _MOMENTS}
        for name, factor in self.factors.items() if self.step_index else ():
            kept = {moment: moments[moment][name].to(factor.device) for moment in _MOMENTS}
            self._optimizer.state[factor] = {"step": torch.tensor(float(self.step_index), device=factor.device), **kept}

    def _identity(self) -> Mapping[str, Any]:
        """Return what must be the same for a checkpoint to go on from."""
        return {"hyperparameters": asdict(self.chosen), "examples": self._digest, "model": self._card.revision}

    def write(self, path: Path, best: Best | None = None) -> None:
        """Write the best average as an adapter, in diffusers' form, with PEFT's configuration in the header.

        Raises InvalidTraining if none was measured.
        """
        if (best := best or self.best) is None:
            raise InvalidTraining(f"after {self.step_index} steps there is no adapter yet")
        tensors = {f"transformer.{name}": value.to(self._dtype) for name, value in best.factors.items()}
        configuration = {
            "transformer.r": self.chosen.rank,
            "transformer.lora_alpha": self.chosen.alpha,
            "transformer.target_modules": self._layers(),
        }
        made = {"base": self._card.name, "step": best.step, "score": best.score, **self._identity()}
        metadata = {"lora_adapter_metadata": json.dumps(configuration), "kiln_training": json.dumps(made)}
        checkpoint.write_adapter(path, tensors, {"format": "pt", **metadata})

    def close(self) -> None:
        """Give back all memory, the model's included; the trainer cannot be used any more."""
        self.__dict__.clear()
        gc.collect()
        memory.free()


def _shuffled(examples: Sequence[Example], seed: int) -> list[Example]:
    """Return examples in another order, so that those held out are not all alike because their names are."""
    return [examples[number] for number in np.random.default_rng((seed, 3)).permutation(len(examples))]


def _part(tensors: Mapping[str, torch.Tensor], kind: str) -> dict[str, torch.Tensor]:
    """Return the tensors of one kind, by the names of their factors."""
    return {name.removeprefix(f"{kind}."): value for name, value in tensors.items() if name.startswith(f"{kind}.")}
