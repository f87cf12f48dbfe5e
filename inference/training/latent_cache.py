"""Calibrates how similar prompts must be to share latents: `python -m inference.training.latent_cache`.

Pairs of prompts are phrased for scenes of the house model's world: two for one scene, or one each for two scenes that
differ in a part which the wording does not give away. The first of each pair is drawn in full; the second is drawn from
the same noise, once in full and once from the first one's latents at each noise level. The judge says which pictures
follow the second prompt. Going down from the most similar pair, a level may be used as long as no more than the bound
of pictures was lost.
"""

import argparse
import math
import random
import sys
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace

import numpy as np
import torch
from tqdm import tqdm

from inference.card import ModelCard
from inference.engine import Engine
from inference.house_model.captions import LANGUAGES, caption
from inference.house_model.judge import judge
from inference.house_model.world import PATTERNS, POSITIONS, SHAPES, SIZES, Scene, draw_scene
from inference.latent_cache import entries
from inference.latent_cache.mapping import NEVER, Mapping, Point, path_of
from inference.latent_cache.reuse import Hit
from inference.latent_cache.shadow import drift
from inference.latent_cache.wording import signature
from inference.models import catalog
from inference.request import Request
from inference.state import Picture

# shares of the steps that may be skipped
LEVELS = (0.25, 0.45, 0.6)
# share of pairs that tell one scene
SAME_SCENE = 0.7
# how many neighbours in similarity are looked at together
NEIGHBOURS = 20
# pairs in the engine at once
TOGETHER = 16


@dataclass(frozen=True)
class Outcome:
    """What became of one pair at one level."""

    similarity: float
    lost: int  # 1 if only the full picture follows its prompt, -1 if only the other one does
    drift: float


class Fixed:
    """A stand-in for the cache: keeps all latents at the levels, and gives each request those chosen for it."""

    def __init__(self, steps: Sequence[int]) -> None:
        self.steps = steps
        self.features: dict[Request, entries.Feature] = {}
        self.latents: dict[tuple[Request, int], torch.Tensor] = {}
        self.sources: dict[Request, tuple[Request, int]] = {}

    def look_up(self, request: Request) -> Hit | None:
        assert request.state.text is not None
        self.features[request] = entries.feature(request.state.text)
        if request not in self.sources:
            return None
        source, step = self.sources[request]
        # rounded as by a store
        latents = self.latents[source, step].to(torch.bfloat16).float()
        return Hit(latents, request.state.sigmas[step], step, 1.0, source.seed, source.steps)

    def offer(self, request: Request) -> None:
        if request.state.step_index in self.steps and request not in self.sources:
            assert request.state.latents is not None
            self.latents[request, request.state.step_index] = request.state.latents


def other_scene(scene: Scene, dice: random.Random) -> Scene:
    """Return the scene with one part changed in which two prompts of the same wording can differ."""
    index = dice.randrange(len(scene.shapes))
    shape = scene.shapes[index]
    part = dice.choice(("kind", "position", "size", "pattern") if len(scene.shapes) == 1 else ("kind", "size", "swap"))
    if part == "pattern":
        return replace(scene, pattern=dice.choice([one for one in PATTERNS if one != scene.pattern]))
    if part == "swap":
        first, second = scene.shapes
        swapped = (replace(first, colour=second.colour), replace(second, colour=first.colour))
        return replace(scene, shapes=swapped)
    names = {"kind": SHAPES, "position": tuple(POSITIONS), "size": tuple(SIZES)}[part]
    changed = replace(shape, **{part: dice.choice([name for name in names if name != getattr(shape, part)])})
    return replace(scene, shapes=(*scene.shapes[:index], changed, *scene.shapes[index + 1 :]))


def pairs(count: int, dice: random.Random) -> list[tuple[str, str, Scene]]:
    """Draw pairs of prompts of the same wording, each with the scene that the second one describes."""
    found: list[tuple[str, str, Scene]] = []
    while len(found) < count:
        scene = draw_scene(dice)
        wanted = scene if dice.random() < SAME_SCENE else other_scene(scene, dice)
        first, second = caption(scene, dice, dice.choice(LANGUAGES)), caption(wanted, dice, dice.choice(LANGUAGES))
        if first != second and signature(first) == signature(second) and (wanted is scene or wanted != scene):
            found.append((first, second, wanted))
    return found


def outcomes(model: str | None, count: int, seed: int) -> tuple[dict[float, list[Outcome]], ModelCard]:
    """Return what became of each pair, by the sigma of each level."""
    card = catalog.card(model)
    skipped = [round(share * card.default_steps) for share in LEVELS]
    found: dict[float, list[Outcome]] = {}
    asked = pairs(count, random.Random(seed))
    fixed = Fixed(skipped)
    with Engine(card.path, latent_cache=fixed) as engine:
        for start in tqdm(range(0, count, TOGETHER), f"pairs of prompts, {TOGETHER} at a time"):
            some = asked[start : start + TOGETHER]
            firsts = [_request(card, first, start + index) for index, (first, _, _) in enumerate(some)]
            fulls = [_request(card, second, start + index) for index, (_, second, _) in enumerate(some)]
            drawn = _made(engine, [*firsts, *fulls])[len(firsts) :]
            for step in skipped:
                hits = [_request(card, full.prompt, full.seed) for full in fulls]
                fixed.sources |= {hit: (first, step) for hit, first in zip(hits, firsts, strict=True)}
                for hit, first, full, by_hit, in_full, (_, _, scene) in zip(
                    hits, firsts, fulls, _made(engine, hits), drawn, some, strict=True
                ):
                    follows = [judge(scene, np.asarray(each.image)).followed for each in (in_full, by_hit)]
                    assert hit.state.latents is not None
                    assert full.state.latents is not None
                    outcome = Outcome(
                        float(fixed.features[first] @ fixed.features[full]),
                        follows[0] - follows[1],
                        drift(hit.state.latents, full.state.latents),
                    )
                    found.setdefault(first.state.sigmas[step], []).append(outcome)
            fixed.latents.clear()
    return found, card


def threshold(found: Sequence[Outcome], bound: float) -> float:
    """Return the lowest similarity down to which at most the bound was lost, and at most one of the last NEIGHBOURS.

    One more loss is counted than was seen, so that neither few pairs nor luck open a level.
    """
    ordered = sorted(found, key=lambda outcome: -outcome.similarity)
    lowest, lost = NEVER, 0
    for count, outcome in enumerate(ordered, start=1):
        lost += outcome.lost
        recent = sum(each.lost for each in ordered[max(0, count - NEIGHBOURS) : count])
        if lost + 1 <= bound * count and recent <= 1:
            lowest = outcome.similarity
        if recent > 0.2 * NEIGHBOURS:
            break
    return lowest


def calibrate(found: dict[float, list[Outcome]], revision: str, bound: float) -> Mapping:
    """Fit thresholds that rise as sigma falls, and the drift that only the bound of pairs above them exceeds."""
    points: list[Point] = []
    harmless = [0.0]
    for sigma in sorted(found, reverse=True):
        least = max([threshold(found[sigma], bound), *(point.similarity for point in points)])
        points.append(Point(math.ceil(least * 1e4) / 1e4, sigma))
        harmless += [outcome.drift for outcome in found[sigma] if outcome.similarity >= least]
    return Mapping(revision, tuple(points), float(np.quantile(harmless, 1 - bound)), bound)


def _request(card: ModelCard, prompt: str, seed: int) -> Request:
    return Request(
        prompt,
        width=card.default_width,
        height=card.default_height,
        steps=card.default_steps,
        guidance_scale=card.default_guidance_scale,
        seed=seed,
    )


def _made(engine: Engine, requests: Sequence[Request]) -> list[Picture]:
    futures: list[Future[Picture]] = [engine.submit(request) for request in requests]
    return [future.result() for future in futures]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m inference.training.latent_cache",
        description="Calibrate how similar prompts must be to share latents, and write it for the model's revision.",
    )
    parser.add_argument("--pairs", type=int, default=480, help="of prompts (default: %(default)s)")
    parser.add_argument("--bound", type=float, default=0.005, help="share that may be lost (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=5, help="of prompts and pictures (default: %(default)s)")
    parser.add_argument("--model", help="a folder (default: KILN_MODEL, else the house model)")
    chosen = parser.parse_args(arguments)
    if chosen.pairs < 1 or not 0 <= chosen.bound < 1:
        parser.error("--pairs must be at least 1, and --bound from 0 to below 1")
    found, card = outcomes(chosen.model, chosen.pairs, chosen.seed)
    mapping = calibrate(found, card.revision, chosen.bound)
    mapping.save(path_of(card))
    for similarity, sigma in mapping.points:
        accepted = [outcome for outcome in found[sigma] if outcome.similarity >= similarity]
        lost = sum(outcome.lost for outcome in accepted)
        sys.stdout.write(
            f"sigma {sigma:.3f} from similarity {similarity:.4f}: {len(accepted)} pairs, {lost} lost in all\n"
        )
    sys.stdout.write(f"harmless drift {mapping.drift:.4f}\n{path_of(card)}\n")


if __name__ == "__main__":
    main()
