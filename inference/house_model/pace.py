"""Training for a given time: steps until it is up, a falling learning rate, averaged weights, a progress bar."""

import logging
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

import torch
from torch import nn
from tqdm import tqdm

BAR = "{percentage:3.0f}%|{bar}| {desc}"
Item = TypeVar("Item")
log = logging.getLogger(__name__)


class Pace:
    """The progress of a stage of training in time; a resumed stage has already used `spent` seconds."""

    def __init__(self, name: str, seconds: float, spent: float = 0.0, step: int = 0) -> None:
        self.name, self.seconds = name, seconds
        self.step = step
        self._spent_before = spent
        self._started = time.monotonic() - spent
        self._losses: list[torch.Tensor] = []
        self._bar = tqdm(desc=name, total=round(seconds), initial=round(spent), bar_format=BAR, disable=None)

    @property
    def spent(self) -> float:
        """The seconds used."""
        return time.monotonic() - self._started

    @property
    def share(self) -> float:
        """The share of the time used, 0..1."""
        return min(self.spent / self.seconds, 1.0)

    def rate(self, warm_up: int = 100, floor: float = 0.02) -> float:
        """Return the learning rate's factor: a linear rise over the first steps, then a linear fall with time."""
        return min(1.0, (self.step + 1) / warm_up) * max(1.0 - self.share, floor)

    def steps(self, items: Iterable[Item]) -> Iterator[Item]:
        """Pass items on until the time is up; the first step, which compiles, is not timed."""
        compiling = True
        for item in items:
            if self.spent >= self.seconds:
                self._bar.close()
                return
            yield item
            self.step += 1
            if compiling:
                self._started, compiling = time.monotonic() - self._spent_before, False

    def report(self, loss: torch.Tensor, every: int = 100) -> None:
        """Move the bar and, every so many steps, show the mean loss and time left, or log them if not a terminal."""
        self._losses.append(loss)
        self._bar.update(min(round(self.spent), self._bar.total) - self._bar.n)
        if len(self._losses) == every:
            left = (self.seconds - self.spent) / 60
            told = f"step {self.step} loss {float(torch.stack(self._losses).mean()):.5f}, {left:.1f} min left"
            self._bar.set_description_str(f"{self.name} {told}")
            if self._bar.disable:
                log.info("%s %s", self.name, told)
            self._losses.clear()


class Average:
    """An exponential moving average of a model's weights."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._model, self._decay, self._updates = model, decay, 0
        self.weights = {name: value.detach().clone() for name, value in model.state_dict().items()}

    @torch.no_grad()
    def update(self) -> None:
        """Move the average towards the model's weights, faster at first, while both are far from good."""
        self._updates += 1
        decay = min(self._decay, (1 + self._updates) / (10 + self._updates))
        ours = list(self.weights.values())
        theirs = [value.detach() for value in self._model.state_dict().values()]
        torch._foreach_lerp_(ours, theirs, 1 - decay)

    @torch.no_grad()
    def copy_to(self) -> None:
        """Give the model the averaged weights."""
        self._model.load_state_dict(self.weights)

    def follow(self, model: nn.Module) -> None:
        """Continue with the weights of this model, after training was resumed."""
        self._model, self._updates = model, 10_000
