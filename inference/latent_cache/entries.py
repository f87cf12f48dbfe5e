"""An entry's two faces as bytes: its description, which look-ups read, and latents at one level. No pickle anywhere."""

import base64
import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors.torch
import torch
from safetensors import SafetensorError

Feature = npt.NDArray[np.float32]

# of the template behind the prompt: <|im_end|> \n <|im_start|> assistant \n. In a causal text encoder they alone have
# read the whole prompt; pooled over all tokens, or over the prompt's, paraphrases and other scenes overlap.
CLOSING_TOKENS = 5


def feature(text: torch.Tensor) -> Feature:
    """The direction of a prompt's meaning, [width] of length 1, from its embedding [text tokens, width]."""
    pooled = text[-CLOSING_TOKENS:].float().mean(dim=0)
    found: Feature = torch.nn.functional.normalize(pooled, dim=0).cpu().numpy()
    return found


@dataclass(frozen=True)
class Description:
    """What a picture was made of: its prompt's feature and wording, seed, steps, and the sigmas it has latents at."""

    feature: Feature
    wording: str
    seed: int
    steps: int
    sigmas: tuple[float, ...]

    def to_bytes(self) -> bytes:
        packed = base64.b85encode(self.feature.astype("<f2").tobytes()).decode()
        rest = {"wording": self.wording, "seed": self.seed, "steps": self.steps, "sigmas": self.sigmas}
        return json.dumps({"feature": packed, **rest}).encode()

    @classmethod
    def from_bytes(cls, content: bytes) -> "Description":
        """Raises ValueError or KeyError for what `to_bytes` did not write."""
        found: dict[str, Any] = json.loads(content)
        unpacked = np.frombuffer(base64.b85decode(found["feature"]), "<f2").astype(np.float32)
        return cls(unpacked, found["wording"], found["seed"], found["steps"], tuple(found["sigmas"]))

    @cached_property
    def levels(self) -> dict[float, str]:
        return {sigma: level(sigma) for sigma in self.sigmas}


def level(sigma: float) -> str:
    return f"{sigma:.6f}"


def pack(latents: torch.Tensor) -> bytes:
    """Latents [tokens, channels] in 16 bits: half a mebibyte for a picture of 1024 by 1024 pixels."""
    packed: bytes = safetensors.torch.save({"latents": latents.to("cpu", torch.bfloat16).contiguous()})
    return packed


def unpack(content: bytes, shape: tuple[int, ...]) -> torch.Tensor | None:
    """Finite latents of that shape in 32 bits; None where the content is anything else."""
    try:
        latents = safetensors.torch.load(content)["latents"].float()
    except (SafetensorError, KeyError, ValueError):
        return None
    return latents if tuple(latents.shape) == shape and bool(latents.isfinite().all()) else None
