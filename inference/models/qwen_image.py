"""A Qwen-Image model in memory: prompts to embeddings, latents to pictures. The transformer runs in a
backend.

Parts and weights are those of diffusers' QwenImagePipeline, whose loop is not used: it makes one picture at
a time.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import QwenImagePipeline
from diffusers.utils import logging as diffusers_logging
from PIL import Image
from transformers.utils import logging as transformers_logging

from inference.errors import BrokenPicture, ModelUnavailable
from inference.models import autoencoder

# what diffusers' pipeline allows at most (its own default is 512)
MAX_TEXT_TOKENS = 1024


class QwenImage:
    """The loaded parts of one model on one device."""

    def __init__(self, pipeline: QwenImagePipeline, device: torch.device) -> None:
        self.device = device
        self.transformer = pipeline.transformer
        self.sampler_config: Mapping[str, Any] = pipeline.scheduler.config
        self.channels: int = pipeline.transformer.config.in_channels
        self._autoencoder = autoencoder.flatten_time(pipeline.vae)
        self._text_encoder = pipeline.text_encoder.eval()
        self._tokenizer = pipeline.tokenizer
        self._template: str = pipeline.prompt_template_encode
        self._template_tokens: int = pipeline.prompt_template_encode_start_idx

    def encode(self, prompt: str) -> torch.Tensor:
        """A prompt's embedding [text tokens, width], as diffusers' `encode_prompt` computes it."""
        tokens = self._tokenizer(
            self._template.format(prompt),
            max_length=MAX_TEXT_TOKENS + self._template_tokens,
            truncation=True,
            return_tensors="pt",
        ).to(self.device)
        states = self._text_encoder(
            input_ids=tokens.input_ids,
            attention_mask=tokens.attention_mask,
            output_hidden_states=True,
            logits_to_keep=1,
        ).hidden_states[-1]
        embedding: torch.Tensor = states[0, self._template_tokens :].to(self.transformer.dtype)
        return embedding

    def decode(self, latents: torch.Tensor, grid: tuple[int, int]) -> Image.Image:
        """Latents [tokens, channels] → the RGB picture. Raises BrokenPicture where pixels are not finite."""
        pixels = autoencoder.decode(self._autoencoder, latents, grid)
        if not pixels.isfinite().all():
            raise BrokenPicture("the pixels are not finite")
        return autoencoder.to_image(pixels)


def load(path: str | Path, device: torch.device) -> QwenImage:
    """Load a diffusers folder or hub name: bf16 on a GPU, 32 bits on a CPU. Raises ModelUnavailable."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    try:
        pipeline = QwenImagePipeline.from_pretrained(path, dtype=dtype).to(device)
    except (OSError, ValueError) as error:
        raise ModelUnavailable(f"no Qwen-Image model at {path}: {error}") from error
    if pipeline.transformer.config.guidance_embeds:
        raise ModelUnavailable(f"{path} is guidance-distilled, which this engine does not run")
    return QwenImage(pipeline, device)
