"""Which model is served and what it accepts. The API reads it as well as the engine, so it loads no torch.

A model is a diffusers folder or a hub name. `kiln.json` in a folder overrides the fields of its card, except path and
revision, which are the folder's own.
"""

import hashlib
import json
import logging
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from inference import pictures
from inference.adapters import recipes
from inference.card import FROM_LATENTS, ModelCard
from inference.errors import InvalidRequest, ModelUnavailable
from inference.request import SERVICE_CLASSES, Operation, Request

HOUSE_MODEL = Path(__file__).resolve().parent.parent / "house_model" / "weights"
INDEX = "model_index.json"
# on the hub, with several pictures: for a machine that cannot read their indices there
PUBLISHED_EDITS = ("Qwen/Qwen-Image-Edit-2509", "Qwen/Qwen-Image-Edit-2511")
HUB_SECONDS = 5.0
MAX_ADAPTERS = 4
MAX_ADAPTER_SCALE = 10
_TAIL_BYTES = 65536

log = logging.getLogger(__name__)


def card(model: str | Path | None = None) -> ModelCard:
    """Return the card of `model`, else of KILN_MODEL, else of the house model.

    Raises ModelUnavailable if there is no such folder, or it is not a usable model.
    """
    place = str(model or os.environ.get("KILN_MODEL") or HOUSE_MODEL)
    folder = Path(place).expanduser()
    if folder.is_dir():
        index = folder.resolve() / INDEX
        return _folder_card(index.parent, index.stat().st_mtime_ns if index.is_file() else None)
    if re.fullmatch(r"[\w.-]+/[\w.-]+", place):
        return _hub_card(place)
    raise ModelUnavailable(f"no model folder at {place}")


def defaults(card: ModelCard, adapters: Sequence[tuple[str | Path, float]] = ()) -> tuple[int, float]:
    """Return steps and guidance scale of a request that names none: its adapters' recipe's, else the model's.

    Raises InvalidRequest if the recipes differ, or one is not valid.
    """
    return by_recipe(card, recipes.combine(adapters))


def by_recipe(card: ModelCard, recipe: recipes.Recipe) -> tuple[int, float]:
    """Return steps and guidance scale of a recipe, else the model's."""
    return (
        card.default_steps if recipe.steps is None else recipe.steps,
        card.default_guidance_scale if recipe.guidance_scale is None else recipe.guidance_scale,
    )


def validate(request: Request, card: ModelCard) -> None:
    """Check a request against a model. Raises InvalidRequest, with the field's name, for the first bad value."""
    for name in ("width", "height"):
        _check_side(name, getattr(request, name), card)
    if not _is_whole(request.steps) or not 1 <= request.steps <= card.max_steps:
        raise InvalidRequest("steps", f"steps must be a whole number from 1 to {card.max_steps}")
    if not 0 <= request.guidance_scale <= card.max_guidance_scale:
        raise InvalidRequest("guidance_scale", f"guidance_scale must be from 0 to {card.max_guidance_scale:g}")
    if not _is_whole(request.seed) or not 0 <= request.seed < 2**63:
        raise InvalidRequest("seed", "seed must be a whole number from 0 to 2^63 - 1")
    for name in ("prompt", "negative_prompt"):
        _check_text(name, getattr(request, name), card)
    if request.service_class not in SERVICE_CLASSES:
        raise InvalidRequest("service_class", f"service_class must be one of {', '.join(SERVICE_CLASSES)}")
    if not 0 <= request.step_cache <= 1:
        raise InvalidRequest("step_cache", "step_cache must be from 0 to 1")
    pictures.check(request, card)
    _check_adapters(request)


def _check_side(name: str, value: int, card: ModelCard) -> None:
    if not _is_whole(value) or value % card.side_multiple:
        raise InvalidRequest(name, f"{name} must be a multiple of {card.side_multiple}, not {value}")
    if not card.min_side <= value <= card.max_side:
        raise InvalidRequest(name, f"{name} must be from {card.min_side} to {card.max_side} pixels, not {value}")


def _check_adapters(request: Request) -> None:
    if len(request.adapters) > MAX_ADAPTERS:
        raise InvalidRequest("adapters", f"adapters must be at most {MAX_ADAPTERS}, not {len(request.adapters)}")
    if not all(abs(scale) <= MAX_ADAPTER_SCALE for _, scale in request.adapters):
        limits = f"from -{MAX_ADAPTER_SCALE} to {MAX_ADAPTER_SCALE}"
        raise InvalidRequest("adapters", f"the scale of an adapter must be {limits}")


def _check_text(name: str, value: str, card: ModelCard) -> None:
    if len(value) > card.max_prompt_length:
        raise InvalidRequest(name, f"{name} must have at most {card.max_prompt_length} characters")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InvalidRequest(name, f"{name} has half a surrogate pair at character {error.start}") from error


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


@lru_cache(maxsize=16)
def _folder_card(folder: Path, written: int | None) -> ModelCard:
    """Read a folder's card; cached until its index is `written` again, since the API asks for it with each request."""
    if written is None:
        raise ModelUnavailable(f"{folder} is not a diffusers folder: {INDEX} is missing")
    edits = _can_edit(_index(folder))
    base = ModelCard(
        name=folder.name.lower(), path=str(folder), revision=_revision(folder), operations=_operations(edits=edits)
    )
    overrides = folder / "kiln.json"
    return _override(base, overrides) if overrides.is_file() else base


@lru_cache(maxsize=16)
def _hub_card(place: str) -> ModelCard:
    index = _hub_index(place)
    edits = place in PUBLISHED_EDITS if index is None else _can_edit(index)
    return ModelCard(
        name=place.rsplit("/", 1)[-1].lower(), path=place, revision=place, operations=_operations(edits=edits)
    )


def _hub_index(place: str) -> dict[str, Any] | None:
    """Return the index of a model on the hub, from the hub's cache if it is there; None if it cannot be had."""
    import huggingface_hub as hub  # slow, and only needed here

    try:
        if isinstance(path := hub.try_to_load_from_cache(place, INDEX), str):
            return _index(Path(path).parent)
        # not by `hf_hub_download`, which tries for a minute: the API waits for this
        headers = {"authorization": f"Bearer {token}"} if (token := hub.get_token()) else {}
        answer = hub.get_session().get(hub.hf_hub_url(place, INDEX), headers=headers, timeout=HUB_SECONDS)
        return dict(answer.raise_for_status().json())
    except Exception as error:  # noqa: BLE001 - each way of not reaching the hub has an error of its own
        log.warning("the configuration of %s cannot be had, only its name is known: %s", place, error)
        return None


def _override(base: ModelCard, path: Path) -> ModelCard:
    try:
        values = dict(json.loads(path.read_text()))
    except (ValueError, TypeError) as error:
        raise ModelUnavailable(f"{path} is not a JSON object: {error}") from error
    if unknown := set(values) - {field.name for field in fields(ModelCard)} | values.keys() & {"path", "revision"}:
        raise ModelUnavailable(f"{path}: unknown fields {', '.join(sorted(unknown))}")
    if "operations" in values:
        values["operations"] = tuple(values["operations"])
        if unknown := set(values["operations"]) - set(Operation):
            raise ModelUnavailable(f"{path}: unknown operations {', '.join(sorted(unknown))}")
    return replace(base, **values)


def check_folder(card: ModelCard) -> None:
    """Check that a model's folder has all its parts. Raises ModelUnavailable if one is missing.

    A hub's name is not looked up.
    """
    folder = Path(card.path)
    if folder.is_dir():
        for name, part in _index(folder).items():
            if isinstance(part, list) and any(part) and not (folder / name).is_dir():
                raise ModelUnavailable(f"the model in {folder} has no folder {name}")


def _index(folder: Path) -> dict[str, Any]:
    path = folder / INDEX
    try:
        return dict(json.loads(path.read_bytes()))
    except (ValueError, TypeError) as error:
        raise ModelUnavailable(f"{path} is not a JSON object: {error}") from error


def _can_edit(index: Mapping[str, Any]) -> bool:
    """Return whether a model reads several pictures: QwenImageEditPipeline reads one, in another template."""
    processor = index.get("processor")
    reads = isinstance(processor, list) and any(processor)
    return reads and index.get("_class_name") in ("QwenImagePipeline", "QwenImageEditPlusPipeline")


def _operations(*, edits: bool) -> tuple[str, ...]:
    return (*FROM_LATENTS, Operation.EDIT.value) if edits else FROM_LATENTS


def _revision(folder: Path) -> str:
    """Hash the index, and name, size and last bytes of each file of the parts, which is cheap even for 40 GB.

    Small ones, such as the noise schedule's configuration, are hashed whole.
    """
    digest = hashlib.sha256((folder / INDEX).read_bytes())
    for path in sorted(path for path in folder.glob("[!.]*/**/*") if path.is_file()):
        size = path.stat().st_size
        with path.open("rb") as file:
            file.seek(max(0, size - _TAIL_BYTES))
            digest.update(f"{path.relative_to(folder)} {size} ".encode() + file.read())
    return digest.hexdigest()[:12]
