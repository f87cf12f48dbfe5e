"""Adapter files as trainers and tools lay them out: a row for each in the table of docs/adapters.md.

The names of tensors and fields are those that the trainers' own code writes. Each file holds the same factors, so what
it does to the model can be worked out by hand.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import save_file

READ, REFUSED, IGNORED = "read", "refused", "read without them, with a warning"
RANK, ALPHA = 4, 6.0
LAYERS = (
    "transformer_blocks.0.attn.to_q",
    "transformer_blocks.1.attn.to_out.0",
    "transformer_blocks.1.attn.add_k_proj",
    "transformer_blocks.0.img_mlp.net.0.proj",
    "transformer_blocks.1.img_mod.1",
    "transformer_blocks.0.txt_mlp.net.2",
    "proj_out",
)
Tensors = dict[str, torch.Tensor]
# a layer's down [rank, in] and up [out, rank]
Factors = dict[str, tuple[torch.Tensor, torch.Tensor]]


@dataclass
class Layout:
    """A file and what is to be found in it: `scales` by which the factors' products change the layers."""

    tensors: Tensors
    factors: Factors = field(default_factory=dict)
    scales: dict[str, float] = field(default_factory=dict)
    header: dict[str, str] = field(default_factory=dict)
    beside: dict[str, object] | None = None
    name: str = "style.safetensors"

    def write(self, folder: Path) -> Path:
        folder.mkdir()
        save_file({key: value.contiguous() for key, value in self.tensors.items()}, folder / self.name, self.header)
        if self.beside is not None:
            (folder / "adapter_config.json").write_text(json.dumps(self.beside))
        return folder / self.name


@dataclass(frozen=True)
class Row:
    """A row of the table; `reason` is in the sentence that refuses the file, or warns."""

    verdict: str
    make: Callable[[dict[str, tuple[int, int]]], Layout]
    reason: str = ""


def factors(sizes: dict[str, tuple[int, int]], rank: int = RANK, dtype: torch.dtype = torch.float32) -> Factors:
    generator = torch.Generator().manual_seed(rank)
    found = {}
    for layer in LAYERS:
        inputs, outputs = sizes[layer]
        down = torch.randn(rank, inputs, generator=generator) * inputs**-0.5
        up = torch.randn(outputs, rank, generator=generator) * (0.3 / rank**0.5)
        found[layer] = (down.to(dtype), up.to(dtype))
    return found


def laid_out(
    found: Factors, prefix: str, down: str, up: str, alpha: float | None = None, flat: bool = False, **rest
) -> Layout:
    tensors: Tensors = {}
    for layer, (a, b) in found.items():
        stem = prefix + (layer.replace(".", "_") if flat else layer)
        tensors |= {f"{stem}.{down}": a, f"{stem}.{up}": b}
        if alpha is not None:
            tensors[f"{stem}.alpha"] = torch.tensor(alpha, dtype=a.dtype)
    scales = {layer: 1.0 if alpha is None else alpha / len(a) for layer, (a, _) in found.items()}
    return Layout(tensors, found, scales, **rest)


PEFT = ("lora_A.weight", "lora_B.weight")
KOHYA = ("lora_down.weight", "lora_up.weight")


def named(prefix: str, parts: tuple[str, str], alpha: float | None = None, flat: bool = False, **rest):
    """Return what makes a layout with these names."""
    return lambda sizes: laid_out(factors(sizes), prefix, *parts, alpha=alpha, flat=flat, **rest)


def in_type(dtype: torch.dtype, scaled: bool = False):
    def make(sizes: dict[str, tuple[int, int]]) -> Layout:
        found = factors(sizes, dtype=torch.float32 if scaled else dtype)
        if not scaled:
            return laid_out(found, "diffusion_model.", *KOHYA, alpha=ALPHA)
        layout = laid_out({}, "", *KOHYA)
        layout.tensors["scaled_fp8"] = torch.empty(0, dtype=dtype)
        for layer, pair in found.items():
            kept = []
            for part, factor in zip(("lora_down", "lora_up"), pair, strict=True):
                scale = factor.abs().max() / 400
                small = (factor / scale).to(dtype)
                layout.tensors[f"diffusion_model.{layer}.{part}.weight"] = small
                layout.tensors[f"diffusion_model.{layer}.{part}.scale_weight"] = scale
                kept.append(small.float() * scale)
            layout.factors[layer], layout.scales[layer] = (kept[0], kept[1]), 1.0
        return layout

    return make


def of_peft(name: str = "adapter_model.safetensors", **fields):
    """Return what makes PEFT's folder, with these fields in its configuration."""

    def make(sizes: dict[str, tuple[int, int]]) -> Layout:
        config = {"peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA, "target_modules": list(LAYERS), "bias": "none"}
        layout = laid_out(factors(sizes), "base_model.model.", *PEFT, beside=config | fields, name=name)
        layout.scales = dict.fromkeys(LAYERS, ALPHA / RANK)
        return layout

    return make


def of_peft_with_patterns(sizes: dict[str, tuple[int, int]]) -> Layout:
    layout = of_peft(use_rslora=True)(sizes)
    more = factors(sizes, 9)
    for layer in LAYERS[:2]:
        layout.factors[layer] = more[layer]
        for part, factor in zip(PEFT, more[layer], strict=True):
            layout.tensors[f"base_model.model.{layer}.{part}"] = factor
    layout.beside |= {
        "rank_pattern": {r"transformer_blocks\.\d+\.attn\.to_(q|out\.0)": 9},
        "alpha_pattern": {"^proj_out": 1, ".*net.[02].*": 12, r"attn\.(to|add)_[a-p]+_?.*": 3},
    }
    alphas = {
        LAYERS[0]: ALPHA,
        LAYERS[1]: 3,
        LAYERS[2]: 3,
        LAYERS[3]: 12,
        LAYERS[4]: ALPHA,
        LAYERS[5]: 12,
        "proj_out": 1,
    }
    layout.scales = {layer: alphas[layer] / len(layout.factors[layer][0]) ** 0.5 for layer in LAYERS}
    return layout


def of_diffusers_with_configuration(sizes: dict[str, tuple[int, int]]) -> Layout:
    layout = named("transformer.", PEFT)(sizes)
    values = {"r": RANK, "lora_alpha": ALPHA, "alpha_pattern": {"img_mod.1": 1}, "target_modules": list(LAYERS)}
    prefixed = {f"transformer.{name}": value for name, value in values.items()}
    layout.header = {"format": "pt", "lora_adapter_metadata": json.dumps(prefixed | {"text_encoder.r": 99})}
    layout.scales = {layer: (1 if "img_mod" in layer else ALPHA) / RANK for layer in LAYERS}
    return layout


def converted_by_musubi(sizes: dict[str, tuple[int, int]]) -> Layout:
    # alpha / rank is in the factors, and the training's own alpha stays in the header
    header = {"ss_network_module": "networks.lora_qwen_image", "ss_network_dim": str(RANK), "ss_network_alpha": "1"}
    return named("diffusion_model.", PEFT, header=header)(sizes)


def of_rank(rank: int):
    return lambda sizes: laid_out(factors(sizes, rank), "transformer.", *PEFT)


def lightning(sizes: dict[str, tuple[int, int]]) -> Layout:
    return laid_out(factors(sizes, 64, torch.bfloat16), "", *KOHYA, alpha=8.0)


def with_others(**others: tuple[int, ...]):
    """Return what makes a file with other tensors beside the factors, of these shapes; `__` stands for a dot."""

    def make(sizes: dict[str, tuple[int, int]]) -> Layout:
        layout = named("diffusion_model.", KOHYA, ALPHA)(sizes)
        layout.tensors |= {name.replace("__", "."): torch.ones(shape) for name, shape in others.items()}
        return layout

    return make


def only(stem: str, **parts: tuple[int, ...]):
    """Return what makes a file of another method, of one layer."""
    return lambda sizes: Layout(
        {f"{stem}.{part.replace('__', '.')}": torch.ones(shape) for part, shape in parts.items()}
    )


def in_integers(sizes: dict[str, tuple[int, int]]) -> Layout:
    layout = named("diffusion_model.", KOHYA)(sizes)
    layout.tensors = {name: (20 * value).to(torch.int8) for name, value in layout.tensors.items()}
    return layout


def without_configuration(sizes: dict[str, tuple[int, int]]) -> Layout:
    layout = of_peft()(sizes)
    layout.beside = None
    return layout


Q, FLAT = "diffusion_model.transformer_blocks.0.attn.to_q", "lora_unet_transformer_blocks_0_attn_to_q"
MUSUBI = {"ss_network_module": "networks.lora_qwen_image", "ss_network_dim": str(RANK), "ss_network_alpha": str(ALPHA)}

ROWS = {
    "diffusers": Row(READ, named("transformer.", PEFT)),
    "diffusers, configuration in the header": Row(READ, of_diffusers_with_configuration),
    "diffusers of old": Row(READ, named("transformer.", ("lora.down.weight", "lora.up.weight"))),
    "PEFT": Row(READ, of_peft()),
    "PEFT, file renamed": Row(READ, of_peft("style.safetensors")),
    "PEFT, patterns and rsLoRA": Row(READ, of_peft_with_patterns),
    "PEFT without its configuration": Row(REFUSED, without_configuration, "no adapter_config.json"),
    "DiffSynth-Studio": Row(READ, named("", ("lora_A.default.weight", "lora_B.default.weight"))),
    "ai-toolkit": Row(READ, named("diffusion_model.", PEFT)),
    "ComfyUI": Row(READ, named("diffusion_model.", KOHYA, ALPHA)),
    "kohya": Row(READ, named("lora_unet_", KOHYA, ALPHA, flat=True)),
    "kohya, alpha in the header only": Row(
        REFUSED, named("lora_unet_", KOHYA, flat=True, header=MUSUBI), "ss_network_alpha is '6.0'"
    ),
    "musubi-tuner": Row(READ, named("lora_unet_", KOHYA, ALPHA, flat=True, header=MUSUBI)),
    "musubi-tuner, converted": Row(READ, converted_by_musubi),
    "OneTrainer": Row(READ, named("transformer.", KOHYA, ALPHA)),
    "OneTrainer, underscores": Row(READ, named("lora_transformer_", KOHYA, ALPHA, flat=True)),
    "LyCORIS, plain LoRA (SimpleTuner)": Row(READ, named("lycoris_", KOHYA, ALPHA, flat=True)),
    "Lightning": Row(READ, lightning),
    "ranks to 256": Row(READ, of_rank(256)),
    "F64": Row(READ, in_type(torch.float64)),
    "F16": Row(READ, in_type(torch.float16)),
    "BF16": Row(READ, in_type(torch.bfloat16)),
    "fp8 (E4M3)": Row(READ, in_type(torch.float8_e4m3fn)),
    "fp8 (E5M2)": Row(READ, in_type(torch.float8_e5m2)),
    "fp8, scaled": Row(READ, in_type(torch.float8_e4m3fn, scaled=True)),
    "int8": Row(REFUSED, in_integers, "is of type 'I8'"),
    "PiSSA, OLoRA, CorDA, converted": Row(READ, of_peft(init_lora_weights=True, corda_config={"corda_method": "kpm"})),
    "PiSSA": Row(REFUSED, of_peft(init_lora_weights="pissa_niter_16"), "init_lora_weights is 'pissa_niter_16'"),
    "OLoRA": Row(REFUSED, of_peft(init_lora_weights="olora"), "init_lora_weights is 'olora'"),
    "CorDA": Row(REFUSED, of_peft(init_lora_weights="corda"), "init_lora_weights is 'corda'"),
    "LoftQ": Row(REFUSED, of_peft(init_lora_weights="loftq"), "init_lora_weights is 'loftq'"),
    "LoRA-GA": Row(REFUSED, of_peft(init_lora_weights="lora_ga"), "init_lora_weights is 'lora_ga'"),
    "EVA": Row(READ, of_peft(init_lora_weights="eva", eva_config={"rho": 2.0})),
    "DoRA of PEFT": Row(REFUSED, of_peft(use_dora=True), "'use_dora'"),
    "DoRA": Row(REFUSED, with_others(**{f"{Q}.dora_scale": (3, 1)}), "DoRA"),
    "LoKr": Row(REFUSED, only(Q, lokr_w1=(4, 4), lokr_w2=(8, 8), alpha=()), "LoKr"),
    "LoHa": Row(REFUSED, only(FLAT, hada_w1_a=(8, 2), hada_w1_b=(2, 8), hada_w2_a=(8, 2), hada_w2_b=(2, 8)), "LoHa"),
    "OFT": Row(REFUSED, only(FLAT, oft_blocks=(2, 4, 4), alpha=()), "OFT"),
    "GLoRA": Row(
        REFUSED, only(FLAT, a1__weight=(2, 8), a2__weight=(8, 2), b1__weight=(2, 8), b2__weight=(8, 2)), "GLoRA"
    ),
    "(IA)³": Row(REFUSED, only(FLAT, weight=(8,), on_input=()), "(IA)³"),
    "LoCon with a Tucker decomposition": Row(REFUSED, with_others(**{f"{Q}.lora_mid.weight": (4, 4)}), "Tucker"),
    "whole weights (.diff)": Row(REFUSED, with_others(**{f"{Q}.diff": (8, 8)}), "whole weights"),
    "biases (.diff_b)": Row(REFUSED, with_others(**{f"{Q}.diff_b": (8,)}), "bias"),
    "biases of PEFT": Row(REFUSED, of_peft(bias="lora_only"), "'bias'"),
    "biases of LoRA": Row(REFUSED, with_others(**{f"{Q}.lora_B.bias": (8,)}), "bias"),
    "norms": Row(
        REFUSED, with_others(**{"diffusion_model.transformer_blocks.0.attn.norm_q.w_norm": (8,)}), "whole weights"
    ),
    "whole modules of PEFT": Row(REFUSED, of_peft(modules_to_save=["proj_out"]), "'modules_to_save'"),
    "other methods of PEFT": Row(REFUSED, of_peft(peft_type="LOHA"), "peft_type is 'LOHA'"),
    "other fields of PEFT": Row(REFUSED, of_peft(layer_replication=[[0, 1]]), "'layer_replication'"),
    "text encoder, kohya": Row(
        IGNORED,
        with_others(lora_te_text_model_encoder_layers_0_mlp_fc1__lora_down__weight=(4, 8)),
        "text encoder",
    ),
    "text encoder, diffusers and OneTrainer": Row(
        IGNORED, with_others(text_encoder__model__layers__0__self_attn__q_proj__lora_A__weight=(4, 8)), "text encoder"
    ),
    "text encoder, ComfyUI": Row(
        IGNORED,
        with_others(text_encoders__qwen25_7b__transformer__model__layers__0__mlp__lora_up__weight=(8, 4)),
        "text",
    ),
}
