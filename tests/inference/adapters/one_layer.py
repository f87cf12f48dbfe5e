"""An adapter of one layer, and what may stand in the JSON of its file."""

import torch
from hypothesis import strategies as st

LAYER = "transformer.transformer_blocks.0.attn.to_q"
BARE = LAYER.removeprefix("transformer.")
DOWN, UP = f"{LAYER}.lora_A.weight", f"{LAYER}.lora_B.weight"


def good(rank: int = 4) -> dict[str, torch.Tensor]:
    return {DOWN: torch.ones(rank, 192), UP: torch.ones(192, rank)}


def kohya(key: str) -> str:
    layer, dot, part = key.removeprefix("transformer.").rpartition(".lora_" if ".lora_" in key else ".alpha")
    part = {"A.weight": "down.weight", "B.weight": "up.weight"}.get(part, part)
    return f"lora_unet_{layer.replace('.', '_')}{dot}{part}"


ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["to_q", "(", "LORA"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
