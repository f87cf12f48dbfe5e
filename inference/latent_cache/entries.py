"""The bytes of a cache entry: its description, which look-ups read, and its latents at one level. No pickle."""

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

# the template's tokens behind the prompt: <|im_end|> \n <|im_start|> assistant \n. In a causal text encoder only they
# have read the whole prompt; pooled over all tokens, or the prompt's, paraphrases and other scenes overlap.
CLOSING_TOKENS = 5


def feature(text: torch.Tensor) -> Feature:
    """Return the direction of a prompt's meaning, [width] of length 1, from its embedding [text tokens, width]."""
    pooled = text[-CLOSING_TOKENS:].float().mean(dim=0)
    found: Feature = torch.nn.functional.normalize(pooled, dim=0).cpu().numpy()
    return found


@dataclass(frozen=True)
class Description:
    """A picture's description: its prompt's feature and wording, its seed and steps, and the sigmas of its latents."""

    feature: Feature
    wording: str
    seed: int
    steps: int
    sigmas: tuple[float, ...]

    def to_bytes(self) -> bytes:
        """Write the description as JSON."""
        packed = base64.b85encode(self.feature.astype("<f2").tobytes()).decode()
        rest = {"wording": self.wording, "seed": self.seed, "steps": self.steps, "sigmas": self.sigmas}
        return json.dumps({"feature": packed, **rest}).encode()

    @classmethod
    def from_bytes(cls, content: bytes) -> "Description":
        """Read a description. Raises ValueError, KeyError or TypeError if `to_bytes` did not write it."""
        found: dict[str, Any] = json.loads(content)
        unpacked = np.frombuffer(base64.b85decode(found["feature"]), "<f2").astype(np.float32)
        return cls(unpacked, found["wording"], found["seed"], found["steps"], tuple(found["sigmas"]))

    @cached_property
    def levels(self) -> dict[float, str]:
        """The names of the levels by sigma."""
        return {sigma: level(sigma) for sigma in self.sigmas}


def level(sigma: float) -> str:
    """Return the name of a level in a store."""
    return f"{sigma:.6f}"


def pack(latents: torch.Tensor) -> bytes:
    """Write latents [tokens, channels] in 16 bits: half a mebibyte for a picture of 1024 by 1024 pixels."""
    packed: bytes = safetensors.torch.save({"latents": latents.to("cpu", torch.bfloat16).contiguous()})
    return packed


def unpack(content: bytes, shape: tuple[int, ...]) -> torch.Tensor | None:
    """Read latents in 32 bits; None unless they are finite and of that shape."""
    try:
        latents = safetensors.torch.load(content)["latents"].float()
    except (SafetensorError, KeyError, ValueError):
        return None
    return latents if tuple(latents.shape) == shape and bool(latents.isfinite().all()) else None
