"""How similar two prompts must be for one to begin from the other's latents at a noise level.

`python -m inference.training.latent_cache` fits it. A mapping belongs to one revision of one model, since another has
other embeddings. Without one for the revision nothing is looked up.
"""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Self

from inference.card import ModelCard

FOLDER = Path(__file__).parent / "mappings"
# above any possible similarity
NEVER = 2.0


class Point(NamedTuple):
    """The similarity (cosine) from which on latents at `sigma` may be used."""

    similarity: float
    sigma: float


@dataclass(frozen=True)
class Mapping:
    """Points from the highest sigma, where most is still open, to the lowest; the similarities rise along them.

    `drift` is how far a picture may be from the one that all steps would have made from the same noise (see `shadow`),
    `bound` the share of pictures that may fail to follow their prompt because of it.
    """

    revision: str
    points: tuple[Point, ...]
    drift: float
    bound: float = 0.01

    @property
    def sigmas(self) -> tuple[float, ...]:
        """The levels that can be used at all."""
        return tuple(point.sigma for point in self.points if point.similarity < NEVER)

    def entry(self, similarity: float) -> float | None:
        """Return the lowest sigma to begin at; None if all steps have to be run."""
        reached = [point.sigma for point in self.points if similarity >= point.similarity]
        return min(reached, default=None)

    def point(self, sigma: float) -> Point:
        """Return the point that allowed latents at `sigma`, which are at its sigma or a little above."""
        below = [point for point in self.points if point.sigma <= sigma + 1e-4]
        return max(below or self.points, key=lambda point: point.sigma if below else -point.sigma)

    def tightened(self, sigma: float, similarity: float) -> Self:
        """Return a mapping that requires at least this similarity at `sigma` and below."""
        points = (
            Point(max(point.similarity, similarity), point.sigma) if point.sigma <= sigma else point
            for point in self.points
        )
        return replace(self, points=tuple(points))

    def to_json(self) -> dict[str, Any]:
        """Return the mapping as JSON-ready values."""
        return asdict(self)

    @classmethod
    def from_json(cls, found: dict[str, Any]) -> Self:
        """Make a mapping of what `to_json` returned."""
        return cls(**{**found, "points": tuple(Point(*point) for point in found["points"])})

    def save(self, path: Path) -> None:
        """Write the mapping to a file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(self.to_json(), indent=2) + "\n")


def path_of(card: ModelCard) -> Path:
    """Return where a model's mapping is stored."""
    return FOLDER / f"{card.name}.json"


def load(card: ModelCard) -> Mapping | None:
    """Load the model's mapping; None if there is none for this revision."""
    try:
        mapping = Mapping.from_json(json.loads(path_of(card).read_bytes()))
    except FileNotFoundError:
        return None
    return mapping if mapping.revision == card.revision else None
