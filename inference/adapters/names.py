"""Tells what the tensors of an adapter file are by their names, which differ from trainer to trainer.

    transformer.transformer_blocks.0.attn.to_q.lora_A.weight                               diffusers
    transformer_blocks.0.attn.to_q.lora_A.default.weight                                   DiffSynth
    base_model.model.transformer_blocks.0.attn.to_q.lora_A.weight                          PEFT
    diffusion_model.transformer_blocks.0.attn.to_q.lora_A.weight                           ai-toolkit, ComfyUI
    transformer.transformer_blocks.0.attn.to_q.lora_down.weight · .alpha                   OneTrainer
    transformer_blocks.0.attn.to_q.lora_down.weight · .alpha                               Lightning
    lora_unet_transformer_blocks_0_attn_to_q.lora_down.weight · .alpha                     kohya's scripts, musubi
    lycoris_transformer_blocks_0_attn_to_q.lora_down.weight · .alpha                       LyCORIS, SimpleTuner
    transformer.transformer_blocks.0.attn.to_q.lora.down.weight                            diffusers of old

Every name must be understood: what is not plain LoRA is refused by the name of its method.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from inference.adapters.refusals import require, short

_PREFIX = re.compile(r"(base_model\.model\.)?(?:transformer\.|diffusion_model\.|pipe\.dit\.)?(?=.)")
_FLAT_PREFIXES = ("lora_unet_", "lora_transformer_", "lycoris_")
_TEXT_ENCODER = re.compile(r"(base_model\.model\.)?(lora_te\d?_|text_encoders?(_\d)?\.)")
_FACTOR = re.compile(
    r"\.(?:(?P<down>lora_A|lora_down|lora\.down|lora_linear_layer\.down)"
    r"|(?P<up>lora_B|lora_up|lora\.up|lora_linear_layer\.up))"
    r"(?:(?:\.[\w-]+)??\.(?P<value>weight|scale_weight|weight_scale))?$"
)
_ALPHA = ".alpha"
# a file of scaled 8-bit weights says so with an empty tensor of this name
_SCALED = "scaled_fp8"
_METHODS = {
    "DoRA": r"\.(dora_scale|lora_magnitude_vector)\b",
    "LoKr": r"\.lokr_",
    "LoHa": r"\.hada_",
    "OFT": r"\.(oft|boft)_",
    "GLoRA": r"\.(a1|a2|b1|b2|bm)\.weight$",
    "(IA)³": r"\.(ia3_l|on_input$)",
    "VeRA": r"\bvera_",
    "AdaLoRA": r"\.lora_E\b|\.ranknum\b",
    "LoRA of an embedding": r"\.lora_embedding_",
    "a Tucker decomposition": r"\.lora_mid\b",
    "a change of a bias": r"\.(diff_b|b_norm)$|\bbias$",
    "a change of whole weights": r"\.(diff|set_weight|reshape_weight|w_norm)$|\.(modules_to_save|base_layer)\.",
    "LyCORIS with a scalar": r"\.scalar$",
    "an embedding": r"^(bundle_emb|emb_params|string_to_param)\b",
}


class Factor(NamedTuple):
    """The names of one factor in the file, and of the number that it is multiplied by, if there is one."""

    weight: str
    scale: str | None


class Tensors(NamedTuple):
    """The names of one layer's tensors in the file.

    `trained_as` is the layer's name in the model that PEFT trained; `styled_as_peft` says that PEFT or diffusers named
    the factors, for whom an alpha lies in a configuration.
    """

    down: Factor
    up: Factor
    alpha: str | None
    trained_as: str
    styled_as_peft: bool


@dataclass(frozen=True)
class Contents:
    """What is in a file: the tensors by layer, in the model's order, and whether others change the text encoder."""

    layers: Mapping[str, Tensors]
    of_text_encoder: bool
    by_peft: bool


def sort(keys: Iterable[str], layers: Iterable[str]) -> Contents:
    """Sort the tensors' names by layer of the model. Raises ValueError if one has no meaning, or the set has none."""
    layers = list(layers)
    known = {name: name for name in layers}
    flat = {f"{prefix}{name.replace('.', '_')}": name for prefix in _FLAT_PREFIXES for name in layers}
    found: dict[str, dict[str, str]] = {}
    of_text_encoder = by_peft = scaled = False
    for key in keys:
        if _TEXT_ENCODER.match(key):
            of_text_encoder = True
            continue
        if key == _SCALED:
            scaled = True
            continue
        stem, kind = _split(key)
        prefix = _PREFIX.match(stem)
        bare = stem[prefix.end() :] if prefix else stem
        layer = known.get(bare) or flat.get(stem)
        require(layer is not None, f"the model has no linear layer for {short(key)}")
        assert layer is not None
        require(kind not in found.setdefault(layer, {}), f"{short(key)} is there twice")
        found[layer][kind] = key
        if prefix and prefix[1]:
            by_peft = True
            found[layer]["trained as"] = stem[len(prefix[1]) :]
    require(bool(found), "no weights for the transformer" if of_text_encoder else "no weights")
    sorted_ = {layer: _tensors(layer, found[layer], scaled) for layer in layers if layer in found}
    return Contents(sorted_, of_text_encoder, by_peft)


def _split(key: str) -> tuple[str, str]:
    """Return the name of a tensor's layer, and which of its tensors it is."""
    if key.endswith(_ALPHA):
        return key.removesuffix(_ALPHA), "alpha"
    part = _FACTOR.search(key)
    if part is None:
        method = next((name for name, pattern in _METHODS.items() if re.search(pattern, key)), None)
        reason = f"is {method}, which is not supported, only LoRA" if method else "is not a LoRA weight"
        raise ValueError(f"{short(key)} {reason}")
    kind = "down" if part["down"] else "up"
    return key[: part.start()], kind if part["value"] in (None, "weight") else f"{kind} scale"


def _tensors(layer: str, names: Mapping[str, str], scaled: bool) -> Tensors:
    require({"down", "up"} <= names.keys(), f"{layer} has only one of two factors")
    has_scales = {"down scale", "up scale"} <= names.keys()
    require(has_scales or not scaled, f"{layer} has scaled weights without their scales")
    down, up = (Factor(names[kind], names.get(f"{kind} scale")) for kind in ("down", "up"))
    return Tensors(down, up, names.get("alpha"), names.get("trained as", layer), ".lora_A" in down.weight)
