"""A stage of training that can be ended at any time: its checkpoint holds all that it needs to go on.

Checkpoints are written beside the last one and moved there, so that one of them is always whole.
"""

import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from inference.house_model.pace import Average, Pace

CHECKPOINT_SECONDS = 300
Item = TypeVar("Item")
Optimizers = Sequence[tuple[torch.optim.Optimizer, float]]


class Stage:
    """A model in training, with its averaged weights, its optimizers, each with its learning rate, and its pace."""

    def __init__(self, checkpoint: Path, pace: Pace, model: nn.Module, optimizers: Optimizers, decay: float) -> None:
        self.pace, self.model, self.average = pace, model, Average(model.state_dict(), decay)
        self._checkpoint, self._optimizers = checkpoint, optimizers
        self._parts: dict[str, Any] = {"model": model, "average": self.average, "pace": pace}
        self._parts |= {f"optimizer {number}": optimizer for number, (optimizer, _) in enumerate(optimizers)}
        if checkpoint.exists():
            for name, state in torch.load(checkpoint, weights_only=True).items():
                self._parts[name].load_state_dict(state)
        # after a resumption other examples than those of the beginning
        torch.manual_seed(pace.step)
        self._saved = time.monotonic()

    def steps(self, items: Iterable[Item]) -> Iterator[Item]:
        """Pass items on until the time is up; then save, and give the model the averaged weights."""
        yield from self.pace.steps(items)
        self.save()
        self.average.copy_to()

    def learn(self, losses: Iterable[torch.Tensor]) -> None:
        """Take one step down the sum of the losses; each is differentiated before the next is computed."""
        total = torch.zeros(())
        for loss in losses:
            loss.backward()
            total += loss.detach()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer, rate in self._optimizers:
            optimizer.param_groups[0]["lr"] = rate * self.pace.rate()
            optimizer.step()
            optimizer.zero_grad()
        self.average.update()
        self.pace.report(total)
        if time.monotonic() - self._saved > CHECKPOINT_SECONDS:
            self.save()

    def save(self) -> None:
        """Write the checkpoint, whole or not at all."""
        fresh = self._checkpoint.with_suffix(".new")
        with fresh.open("wb") as file:
            torch.save({name: part.state_dict() for name, part in self._parts.items()}, file)
            file.flush()
            os.fsync(file.fileno())
        fresh.rename(self._checkpoint)
        self._saved = time.monotonic()


def averaged(checkpoint: Path) -> dict[str, torch.Tensor]:
    """Read the averaged weights of a stage that may still be in training."""
    weights: dict[str, torch.Tensor] = torch.load(checkpoint, weights_only=True)["average"]["weights"]
    return weights


def publish(folder: Path, write: Callable[[Path], object]) -> None:
    """Have a finished stage's folder written beside `folder` and moved there, so that it is never half written."""
    fresh = folder.with_name(f"{folder.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    write(fresh)
    shutil.rmtree(folder, ignore_errors=True)
    fresh.rename(folder)
