"""What PEFT's configuration of an adapter says: each field that changes the arithmetic is honoured or refused by name.

The fields, their meaning and their defaults are those of PEFT's LoraConfig. A field that is not known here may change
the arithmetic, so it is refused unless it says nothing.
"""

import json
import math
from collections.abc import Mapping
from typing import Any

from inference.adapters import patterns
from inference.adapters.refusals import once, require, short

# what PEFT takes where its configuration says nothing
DEFAULT_ALPHA = 8
HONOURED = {
    "alpha_pattern",
    "exclude_modules",
    "init_lora_weights",
    "layers_pattern",
    "layers_to_transform",
    "lora_alpha",
    "peft_type",
    "r",
    "rank_pattern",
    "target_modules",
    "use_rslora",
}
# how it was trained, which model for, or how other layers than linear ones lie in memory
WITHOUT_EFFECT = {
    "auto_mapping",
    "base_model_name_or_path",
    "corda_config",
    "ensure_weight_tying",
    "eva_config",
    "fan_in_fan_out",
    "inference_mode",
    "loftq_config",
    "lora_dropout",
    "lora_ga_config",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "revision",
    "runtime_config",
    "task_type",
}
# the others change the model's own weights, so that the factors fit no other model
INITIALISATIONS = (None, True, False, "gaussian", "eva", "orthogonal")
SAYS_NOTHING: tuple[Any, ...] = ("", "none", [], {})


class Configuration:
    """An adapter's configuration, checked; tells the scale of each layer."""

    def __init__(self, written: str) -> None:
        """Read it. Raises ValueError if it is none of PEFT's, or asks for something that is not supported."""
        try:
            values = json.loads(written, object_pairs_hook=once)
        except json.JSONDecodeError as error:
            raise ValueError("the configuration is not JSON") from error
        require(isinstance(values, dict), "the configuration is not a JSON object")
        # diffusers keeps those of several models in one object
        own = {name.removeprefix("transformer."): value for name, value in values.items() if _is_transformers(name)}
        self._values: Mapping[str, Any] = own if own else {n: v for n, v in values.items() if "text_encoder." not in n}
        require(bool(self._values) or not values, "the configuration is a text encoder's, not the transformer's")
        self._ranks, self._alphas = self._patterns("rank_pattern"), self._patterns("alpha_pattern")
        self._check()

    def scale(self, name: str, rank: int) -> float:
        """Return alpha / rank of a layer by its name in the model that PEFT trained; alpha / √rank for rsLoRA.

        Raises ValueError if the configuration says that the layer has another rank or is not changed.
        """
        require(self._covers(name), f"the configuration does not cover {short(name)}, for which there are weights")
        pattern = patterns.first(self._ranks, name)
        expected = self._values.get("r", rank) if pattern is None else self._ranks[pattern]
        require(expected == rank, f"{short(name)} has rank {rank}, and {short(str(expected))} in the configuration")
        pattern = patterns.first(self._alphas, name)
        alpha = self._values.get("lora_alpha", DEFAULT_ALPHA) if pattern is None else self._alphas[pattern]
        return finite(alpha) / (math.sqrt(rank) if self._values.get("use_rslora") else rank)

    def _patterns(self, field: str) -> Mapping[str, Any]:
        found = self._values.get(field) or {}
        require(isinstance(found, dict), f"{field} is not a JSON object")
        patterns.check(found)
        return found

    def _check(self) -> None:
        for name, value in self._values.items():
            known = name in HONOURED or name in WITHOUT_EFFECT or value is None or value is False
            require(known or value in SAYS_NOTHING, f"{short(name)} in the configuration is not supported")
        kind = self._values.get("peft_type") or "LORA"
        require(kind == "LORA", f"peft_type is {short(str(kind))}: only LoRA is supported")
        start = self._values.get("init_lora_weights")
        require(
            any(start is each or (start == each and isinstance(start, str)) for each in INITIALISATIONS),
            f"init_lora_weights is {short(str(start))}, which may have changed the model: convert it to plain LoRA",
        )
        rslora = self._values.get("use_rslora")
        require(rslora in (None, True, False), f"use_rslora is {short(str(rslora))}")

    def _covers(self, name: str) -> bool:
        """Return whether PEFT would change the layer."""
        targets, excluded = self._values.get("target_modules"), self._values.get("exclude_modules")
        if (excluded and self._is_among(name, excluded)) or (targets and not self._is_among(name, targets)):
            return False
        layers = self._values.get("layers_to_transform")
        if layers is None or layers == []:
            return True
        within = self._values.get("layers_pattern")
        require(bool(within), "layers_to_transform without a layers_pattern is not supported")
        names = _names([within] if isinstance(within, str) else within)
        indices = "|".join(map(str, layers if isinstance(layers, list) else [layers]))
        return any(patterns.full(rf"(|.*\.)({pattern})\.({indices})\..*", name) for pattern in names)

    def _is_among(self, name: str, modules: Any) -> bool:
        if isinstance(modules, str):
            return modules.lower() == "all-linear" or patterns.full(modules, name)
        return any(f".{name}".endswith(f".{module}") for module in _names(modules))


def finite(number: Any) -> float:
    """Return an alpha as a float. Raises ValueError unless it is a number, and finite in 32 bits."""
    is_number = isinstance(number, int | float) and not isinstance(number, bool)
    require(is_number and abs(number) <= 3.4e38, f"alpha is {short(str(number))}")
    return float(number)


def _names(value: Any) -> list[str]:
    is_list = isinstance(value, list) and all(isinstance(name, str) for name in value)
    require(is_list, f"{short(str(value))} in the configuration is neither a pattern nor a list of names")
    return list(value)


def _is_transformers(name: str) -> bool:
    return name.startswith("transformer.")
