"""What a training is told beside its pictures: size of the adapter, steps, learning rate, noise levels and so on.

The defaults for a small model were found on the house model; those for a large one are what trainers of Qwen-Image
adapters agree on (docs/training.md).
"""

import math
from dataclasses import dataclass, fields, replace
from typing import Any

from inference.adapters.files import MAX_RANK
from inference.errors import InvalidTraining
from inference.request import MAX_SEED, TILE

ATTENTION = (
    "attn.to_q",
    "attn.to_k",
    "attn.to_v",
    "attn.to_out.0",
    "attn.add_q_proj",
    "attn.add_k_proj",
    "attn.add_v_proj",
    "attn.to_add_out",
)
MLP = ("img_mlp.net.0.proj", "img_mlp.net.2", "txt_mlp.net.0.proj", "txt_mlp.net.2")
# the linear layers of each block that an adapter changes, by what a tier calls them
LAYERS = {"attention": ATTENTION, "all": ATTENTION + MLP}
# those through which only a block's text goes on
TEXT = ("attn.add_q_proj", "attn.to_add_out", "txt_mlp.net.0.proj", "txt_mlp.net.2")
# parameters of a transformer that is trained as a large one
LARGE = 10**9
_BOUNDS: dict[str, tuple[float, float]] = {
    "steps": (1, 100_000),
    "batch": (1, 256),
    "resolution": (64, 2048),
    "rank": (1, MAX_RANK),
    "alpha": (0.001, 1024),
    "learning_rate": (1e-7, 1),
    "warm_up": (0, 100_000),
    "average": (0, 0.9999),
    "noise_mean": (-3, 3),
    "noise_deviation": (0, 3),
    "noise_uniform": (0, 1),
    "dropout": (0, 1),
    "held_out": (0, 0.5),
    "every": (1, 100_000),
    "seed": (0, MAX_SEED),
}


@dataclass(frozen=True)
class Hyperparameters:
    """All that determines a training beside its model and pictures.

    `batch` pictures a step at about `resolution` squared pixels each. The learning rate rises for `warm_up` steps and
    then falls by a cosine to a twentieth. `average` is the decay of the moving average of the weights, which is what is
    kept. A picture's noise level is sigmoid(mean + deviation·n), and uniform for a share `noise_uniform` of pictures.
    `dropout` is the share of captions that are left empty, `held_out` that of pictures which only measure. Each `every`
    steps, the average is measured.
    """

    steps: int = 350
    batch: int = 12
    resolution: int = 128
    rank: int = 16
    alpha: float = 16.0
    layers: str = "all"
    learning_rate: float = 5e-3
    warm_up: int = 20
    average: float = 0.97
    noise_mean: float = 0.5
    noise_deviation: float = 1.2
    noise_uniform: float = 0.2
    dropout: float = 0.1
    held_out: float = 0.125
    every: int = 50
    seed: int = 0

    def __post_init__(self) -> None:
        for name, (least, most) in _BOUNDS.items():
            value = getattr(self, name)
            if not least <= value <= most:
                raise InvalidTraining(f"{name} must be from {least:g} to {most:g}, not {value}")
        if self.resolution % TILE:
            raise InvalidTraining(f"resolution must be a multiple of {TILE}, not {self.resolution}")
        if self.layers not in LAYERS:
            raise InvalidTraining(f"layers must be one of {', '.join(LAYERS)}, not {self.layers}")

    def rate(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0."""
        rising = min(1.0, (step + 1) / max(self.warm_up, 1))
        return self.learning_rate * rising * (0.05 + 0.95 * (1 + math.cos(math.pi * step / self.steps)) / 2)


SMALL = Hyperparameters()
QWEN_IMAGE = Hyperparameters(
    steps=2000,
    batch=1,
    resolution=1024,
    learning_rate=1e-4,
    warm_up=100,
    average=0.99,
    noise_mean=math.log(2.2),
    noise_deviation=1.0,
    noise_uniform=0.1,
    dropout=0.05,
    every=250,
)


def suited(parameters: int, **chosen: Any) -> Hyperparameters:
    """Return the defaults for a transformer of so many parameters, with those chosen that are not None.

    Alpha is the rank unless it is chosen. Raises InvalidTraining if a value is out of bounds.
    """
    named = {name: value for name, value in chosen.items() if value is not None}
    if unknown := named.keys() - {field.name for field in fields(Hyperparameters)}:
        raise InvalidTraining(f"there are no hyperparameters {', '.join(sorted(unknown))}")
    default = QWEN_IMAGE if parameters >= LARGE else SMALL
    return replace(default, **{"alpha": float(named.get("rank", default.rank)), **named})
