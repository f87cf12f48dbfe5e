"""The recipe of an adapter: the steps, guidance and noise schedule that it was made for, such as a distilled one's.

A recipe is a JSON object, and each of its fields may be missing:

    {"steps": 4, "guidance_scale": 1.0, "sampler": {"use_dynamic_shifting": false, "shift": 3.0}}

`sampler` is what diffusers calls a scheduler_config.json; what it leaves out is as by default in diffusers.
NAME.safetensors has its recipe in NAME.recipe.json beside it, else in its metadata as `kiln_recipe`, else it is known
by the name under which it was published. Recipes come from strangers: what is not understood is refused, never ignored.
Loads no torch.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from inference.adapters.refusals import once, require
from inference.adapters.tensors import MAX_HEADER_BYTES
from inference.errors import InvalidRequest

METADATA = "kiln_recipe"
MAX_RECIPE_BYTES = 16 * 1024
MAX_STEPS = 1000
MAX_GUIDANCE_SCALE = 100
MAX_TOKENS = 2**20
MAX_TERMINAL = 0.9
# s in the shifted sigma, s·sigma / (1 + (s - 1)·sigma)
SHIFTS = (0.01, 100.0)

# diffusers' FlowMatchEulerDiscreteScheduler without what only concerns training; the values are its defaults
_DEFAULTS: Mapping[str, Any] = {
    "use_dynamic_shifting": False,
    "shift": 1.0,
    "base_shift": 0.5,
    "max_shift": 1.15,
    "base_image_seq_len": 256,
    "max_image_seq_len": 4096,
    "shift_terminal": None,
    "time_shift_type": "exponential",
    "use_karras_sigmas": False,
    "use_exponential_sigmas": False,
}
# what a step or the model's sense of time does not do, so that no other value can be honoured
_FIXED: Mapping[str, Any] = {
    "_class_name": "FlowMatchEulerDiscreteScheduler",
    "num_train_timesteps": 1000,
    "invert_sigmas": False,
    "stochastic_sampling": False,
    "use_beta_sigmas": False,
}

# lightx2v's Qwen-Image-Lightning and its relatives: all of them for shift 3 without a terminal sigma, and no guidance
_LIGHTNING = re.compile(
    r"qwen-image(-edit)?(-2509|-2511|-2512)?(-fp8-e4m3fn)?-lightning-(?P<steps>[48])steps-v\d", re.IGNORECASE
)


class Recipe(NamedTuple):
    """What an adapter was made for; None: it does not say. `sampler` is complete and valid."""

    steps: int | None = None
    guidance_scale: float | None = None
    sampler: Mapping[str, Any] | None = None


def combine(adapters: Sequence[tuple[str | Path, float]]) -> Recipe:
    """Return what the recipes of a request's adapters, files with their scales, say together.

    Raises InvalidRequest if two of them differ, or one is not valid.
    """
    return agree([(path.name, read(path)) for path in (Path(path) for path, _ in adapters)])


def agree(named: Sequence[tuple[str, Recipe]]) -> Recipe:
    """Return what recipes, with the names of their adapters, say together. Raises InvalidRequest if two differ."""
    combined: dict[str, Any] = {}
    said_by: dict[str, str] = {}
    for name, recipe in named:
        said = {field: value for field, value in recipe._asdict().items() if value is not None}
        if differ := [field for field in said if combined.get(field, said[field]) != said[field]]:
            both = f"adapters {said_by[differ[0]]} and {name} cannot be combined"
            raise InvalidRequest("adapters", f"{both}: their recipes differ in {differ[0]}")
        combined |= said
        said_by |= dict.fromkeys(said, name)
    return Recipe(**combined)


def read(path: Path) -> Recipe:
    """Return the recipe of the adapter in a file; an empty one if it has none, or if the file cannot be read, of which
    the bank says more. Raises InvalidRequest if the recipe is not valid.
    """
    try:
        text = _inside(path) if (beside := _beside(path)) is None else beside
        return known(path.stem) if text is None else parse(text)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest("adapters", f"the recipe of adapter {path.name}: {error}") from error


def parse(text: object) -> Recipe:
    """Check a recipe and complete its schedule. Raises ValueError, or RecursionError if it is nested too deeply."""
    require(isinstance(text, str) and len(text) <= MAX_RECIPE_BYTES, f"not a text of {MAX_RECIPE_BYTES} bytes at most")
    values = json.loads(str(text), object_pairs_hook=once)
    require(isinstance(values, dict), "not a JSON object")
    _require_known(values, Recipe._fields)
    steps, guidance_scale, sampler = (values.get(field) for field in Recipe._fields)
    if steps is not None:
        require(_is_whole(steps, MAX_STEPS), f"steps must be a whole number from 1 to {MAX_STEPS}")
    if guidance_scale is not None:
        limits = f"from 0 to {MAX_GUIDANCE_SCALE}"
        require(_is_number(guidance_scale, 0, MAX_GUIDANCE_SCALE), f"guidance_scale must be a number {limits}")
    return Recipe(steps, guidance_scale, None if sampler is None else check_sampler(sampler))


def check_sampler(config: object) -> dict[str, Any]:
    """Return a diffusers scheduler's configuration, completed. Raises ValueError if it cannot be honoured."""
    if not isinstance(config, Mapping):
        raise ValueError("sampler is not a JSON object")
    named = {name: value for name, value in config.items() if name in _FIXED or not name.startswith("_")}
    given = {name: value for name, value in named.items() if value is not None}
    _require_known(given, [*_DEFAULTS, *_FIXED])
    for name, only in _FIXED.items():
        require(given.pop(name, only) == only, f"{name} can only be {json.dumps(only)}")
    completed = {**_DEFAULTS, **given}
    for name in ("use_dynamic_shifting", "use_karras_sigmas", "use_exponential_sigmas"):
        require(isinstance(completed[name], bool), f"{name} must be true or false")
    for name in ("base_image_seq_len", "max_image_seq_len"):
        require(_is_whole(completed[name], MAX_TOKENS), f"{name} must be a whole number from 1 to {MAX_TOKENS}")
    kind, terminal = completed["time_shift_type"], completed["shift_terminal"]
    require(kind in ("exponential", "linear"), "time_shift_type must be exponential or linear")
    require(terminal is None or _is_number(terminal, 0, MAX_TERMINAL), f"shift_terminal goes up to {MAX_TERMINAL}")
    for name in ("shift", "base_shift", "max_shift"):
        least, most = SHIFTS if name == "shift" or kind == "linear" else map(math.log, SHIFTS)
        require(_is_number(completed[name], least, most), f"{name} must be a number from {least:.4g} to {most:.4g}")
    require(completed["base_image_seq_len"] < completed["max_image_seq_len"], "base_image_seq_len must be the smaller")
    require(not completed["use_karras_sigmas"] or not completed["use_exponential_sigmas"], "sigmas are of one kind")
    return completed


def known(stem: str) -> Recipe:
    """Return the recipe of a well-known adapter by the name of its file, else an empty one."""
    if not (named := _LIGHTNING.match(stem)):
        return Recipe()
    shift = {"use_dynamic_shifting": True, "base_shift": math.log(3), "max_shift": math.log(3)}
    return Recipe(int(named["steps"]), 1.0, check_sampler({**shift, "max_image_seq_len": 8192}))


def _beside(path: Path) -> str | None:
    """Return the text of the recipe beside a file; None if there is none."""
    beside = path.parent / f"{path.stem}.recipe.json"
    try:
        if not beside.is_file():
            return None
        with beside.open("rb") as file:
            # one byte more than there may be, so that `parse` sees that it is too long
            return file.read(MAX_RECIPE_BYTES + 1).decode()
    except OSError as error:
        raise ValueError(error.strerror or "it cannot be read") from error


def _inside(path: Path) -> object:
    """Return the recipe in a safetensors file's metadata; None if it has none, or is no such file."""
    try:
        if not path.is_file():
            return None
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = file.read(length) if length <= MAX_HEADER_BYTES else b""
        # most adapters have none, and reading all their header's names would take milliseconds
        return json.loads(header)["__metadata__"][METADATA] if METADATA.encode() in header else None
    except (OSError, ValueError, RecursionError, KeyError, TypeError):
        return None


def _is_whole(value: object, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= most


def _is_number(value: object, least: float, most: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and least <= value <= most


def _require_known(values: Mapping[str, Any], names: Sequence[str]) -> None:
    unknown = ", ".join(sorted(values.keys() - set(names)))[:100]
    require(not unknown, f"unknown fields: {unknown}")
