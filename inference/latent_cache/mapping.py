"""How similar two prompts must be for one to begin from the other's latents at a noise level; learnt by `calibrate`.

A mapping belongs to one revision of one model: another one has other embeddings. Where there is none for a revision,
nothing is looked up.
"""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Self

from inference.card import ModelCard

FOLDER = Path(__file__).parent / "mappings"
# no two prompts are as similar
NEVER = 2.0


class Point(NamedTuple):
    """From this similarity (cosine) on, latents at `sigma` will do."""

    similarity: float
    sigma: float


@dataclass(frozen=True)
class Mapping:
    """Points from the highest sigma, where most is still open, to the lowest; similarities rise with them.

    `drift` is how far a picture may be from the one that all its steps would have made of the same noise (see
    `shadow`); `bound` the share of pictures that may follow their prompt no more.
    """

    revision: str
    points: tuple[Point, ...]
    drift: float
    bound: float = 0.01

    @property
    def sigmas(self) -> tuple[float, ...]:
        """Those that can be entered at all."""
        return tuple(point.sigma for point in self.points if point.similarity < NEVER)

    def entry(self, similarity: float) -> float | None:
        """The lowest sigma that may be entered at; None where all steps have to be run."""
        reached = [point.sigma for point in self.points if similarity >= point.similarity]
        return min(reached, default=None)

    def point(self, sigma: float) -> Point:
        """The one that latents at `sigma`, which are at its own or a little above, were entered by."""
        below = [point for point in self.points if point.sigma <= sigma + 1e-4]
        return max(below or self.points, key=lambda point: point.sigma if below else -point.sigma)

    def tightened(self, sigma: float, similarity: float) -> Self:
        """Asks for at least that similarity at `sigma` and below."""
        points = (
            Point(max(point.similarity, similarity), point.sigma) if point.sigma <= sigma else point
            for point in self.points
        )
        return replace(self, points=tuple(points))

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, found: dict[str, Any]) -> Self:
        return cls(**{**found, "points": tuple(Point(*point) for point in found["points"])})

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(self.to_json(), indent=2) + "\n")


def path_of(card: ModelCard) -> Path:
    return FOLDER / f"{card.name}.json"


def load(card: ModelCard) -> Mapping | None:
    """The model's own mapping; None where there is none for this revision."""
    try:
        mapping = Mapping.from_json(json.loads(path_of(card).read_bytes()))
    except FileNotFoundError:
        return None
    return mapping if mapping.revision == card.revision else None
