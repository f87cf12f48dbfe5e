"""Training for a given time: steps until it is up, a falling learning rate, averaged weights, and how far it is.

Time is that of the processor, per thread: on cores that others use, training takes longer by the clock, and learns as
much.
"""

import json
import logging
import time
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
from tqdm import tqdm

BAR = "{percentage:3.0f}%|{bar}| {desc}"
LOSSES = 20
Item = TypeVar("Item")
log = logging.getLogger(__name__)


def computed() -> float:
    """Return the seconds that this process has computed for, on all of its threads."""
    return time.process_time() / torch.get_num_threads()


class Pace:
    """The progress of a stage of training; `told` is the file in which to tell it, `later` the later stages' time."""

    def __init__(self, name: str, seconds: float, told: Path | None = None, later: float = 0.0) -> None:
        self.name, self.seconds, self.step = name, seconds, 0
        self._told, self._later = told, later
        self._before, self._since, self._began = 0.0, computed(), (computed(), time.monotonic())
        self._losses: list[torch.Tensor] = []
        self._means: list[float] = []
        self._samples: dict[str, Any] = {}
        self._bar = tqdm(desc=name, total=round(seconds), bar_format=BAR, disable=None)

    @property
    def spent(self) -> float:
        """The seconds of computing used, those before a resumption included."""
        return self._before + computed() - self._since

    @property
    def share(self) -> float:
        """The share of the time used, 0..1."""
        return min(self.spent / self.seconds, 1.0)

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumption needs."""
        return {"step": self.step, "spent": self.spent, "losses": self._means[-500:], "samples": self._samples}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a former pace."""
        self.step, self._means, self._samples = state["step"], state["losses"], state["samples"]
        self._before, self._since = state["spent"], computed()

    def rate(self, warm_up: int = 100, floor: float = 0.02) -> float:
        """Return the learning rate's factor: a linear rise over the first steps, then a linear fall with time."""
        return min(1.0, (self.step + 1) / warm_up) * max(1.0 - self.share, floor)

    def steps(self, items: Iterable[Item]) -> Iterator[Item]:
        """Pass items on until the time is up; the first step, which compiles, is not timed."""
        compiling = True
        for item in items:
            if self.spent >= self.seconds:
                break
            yield item
            self.step += 1
            if compiling:
                self._since, compiling = computed(), False
        self._bar.close()
        self._tell()

    def report(self, loss: torch.Tensor) -> None:
        """Move the bar and, every LOSSES steps, tell the mean loss and the time left."""
        self._losses.append(loss)
        self._bar.update(min(round(self.spent), self._bar.total) - self._bar.n)
        if len(self._losses) == LOSSES:
            self._means.append(round(float(torch.stack(self._losses).mean()), 5))
            self._losses.clear()
            self._tell()
            left = (self.seconds - self.spent) / 60
            told = f"step {self.step} loss {self._means[-1]:.5f}, {left:.1f} min left"
            self._bar.set_description_str(f"{self.name} {told}")
            if self._bar.disable:
                log.info("%s %s", self.name, told)

    def sampled(self, found: dict[str, Any]) -> None:
        """Tell how good the samples of this step were."""
        self._samples = {"step": self.step, **found}
        self._tell()

    def _tell(self) -> None:
        if self._told is None:
            return
        spent, elapsed = computed() - self._began[0], time.monotonic() - self._began[1]
        left = max(self.seconds - self.spent, 0.0)
        now = datetime.now(UTC).replace(microsecond=0)
        slowness = elapsed / max(spent, 1.0)
        told = {
            "stage": self.name,
            "step": self.step,
            "losses": self._means[-40:],
            "samples": self._samples,
            "hours of computing left": {"this stage": round(left / 3600, 2), "later": round(self._later / 3600, 2)},
            "clock hours an hour of computing": round(slowness, 2),
            "written": now.isoformat(),
            "expected end": (now + timedelta(seconds=round((left + self._later) * slowness))).isoformat(),
        }
        fresh = self._told.with_suffix(".new")
        fresh.write_text(json.dumps(told, indent=1) + "\n")
        fresh.rename(self._told)


class Average:
    """An exponential moving average of named weights, which an optimizer changes in place."""

    def __init__(self, weights: Mapping[str, torch.Tensor], decay: float) -> None:
        self._learnt, self._decay, self._updates = weights, decay, 0
        self.weights = {name: value.detach().clone() for name, value in weights.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Move the average towards the weights, faster at first, while both are far from good."""
        self._updates += 1
        decay = min(self._decay, (1 + self._updates) / (10 + self._updates))
        averaged = [self.weights[name] for name in self._learnt]
        torch._foreach_lerp_(averaged, [value.detach() for value in self._learnt.values()], 1 - decay)

    @torch.no_grad()
    def copy_to(self) -> None:
        """Give the averaged values to the weights."""
        for name, value in self._learnt.items():
            value.copy_(self.weights[name])

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumption needs."""
        return {"weights": self.weights, "updates": self._updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a former average."""
        self.weights, self._updates = state["weights"], state["updates"]
