"""A Qwen-Image model in memory: turns prompts and pictures into embeddings, and pictures into latents and back. The
transformer runs in a backend.

Parts, weights and templates are those of diffusers' QwenImagePipeline and QwenImageEditPlusPipeline. Their loops are
not used, since they make one picture at a time.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from accelerate import cpu_offload
from diffusers import DiffusionPipeline, QwenImageEditPlusPipeline, QwenImagePipeline
from diffusers.pipelines.qwenimage.pipeline_qwenimage_edit_plus import CONDITION_IMAGE_SIZE
from diffusers.utils import logging as diffusers_logging
from PIL import Image
from transformers import BatchFeature, Qwen2Tokenizer
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.utils import logging as transformers_logging

from inference import pictures, shares
from inference.adapters import recipes
from inference.card import ModelCard
from inference.errors import BrokenPicture, ModelUnavailable
from inference.models import autoencoder, forms
from inference.models.forms import UNCHANGED, MemoryProfile
from inference.models.processor import PictureProcessor
from inference.request import TILE, Operation
from inference.state import Grid, Posterior

# the most that diffusers' pipeline allows (its default is 512)
MAX_TEXT_TOKENS = 1024
# for an instruction and the three pictures before it, each of about 200 tokens
MAX_EDIT_TOKENS = 2048
PICTURE = "Picture {}: <|vision_start|>" + pictures.PLACEHOLDER + "<|vision_end|>"


class QwenImage:
    """The loaded parts of one model on one device; it can edit if the pipeline is the one for edits."""

    def __init__(self, pipeline: DiffusionPipeline, device: torch.device) -> None:
        self.device = device
        self.transformer = pipeline.transformer
        self.sampler_config: Mapping[str, Any] = pipeline.scheduler.config
        self.channels: int = pipeline.transformer.config.in_channels
        self._autoencoder = autoencoder.flatten_time(pipeline.vae)
        self._text_encoder = pipeline.text_encoder.eval()
        self._tokenizer = pipeline.tokenizer
        self._edit_template: str = pipeline.prompt_template_encode
        self._edit_template_tokens: int = pipeline.prompt_template_encode_start_idx
        parts = dict(pipeline.components)
        self._processor: PictureProcessor | None = parts.pop("processor", None)
        plain = QwenImagePipeline(**parts)
        self._template: str = plain.prompt_template_encode
        self._template_tokens: int = plain.prompt_template_encode_start_idx

    def encode(self, prompt: str) -> torch.Tensor:
        """Return a prompt's embedding [text tokens, width], as computed by `encode_prompt` of QwenImagePipeline."""
        tokens = self._tokenizer(
            self._template.format(prompt),
            max_length=MAX_TEXT_TOKENS + self._template_tokens,
            truncation=True,
            return_tensors="pt",
        )
        return self._embed(tokens, self._template_tokens)

    def encode_edit(self, instructions: Sequence[str], images: Sequence[Image.Image]) -> list[torch.Tensor]:
        """Return each instruction's embedding [text tokens, width] with the pictures.

        The template is that of the pipeline for edits, the positions are the text encoder's own: diffusers 0.42 counts
        the pictures' tokens like words.
        """
        assert self._processor is not None, "the model's card has no edits"
        shown = [pictures.resize(image, pictures.fit(pictures.size(image), CONDITION_IMAGE_SIZE)) for image in images]
        before = "".join(PICTURE.format(number) for number in range(1, len(images) + 1))
        embeddings = []
        for instruction in instructions:
            tokens = self._processor(
                text=[self._edit_template.format(before + instruction)],
                images=shown,
                max_length=MAX_EDIT_TOKENS + self._edit_template_tokens,
                truncation=True,
                return_tensors="pt",
            )
            embeddings.append(self._embed(tokens, self._edit_template_tokens))
        return embeddings

    def read(self, image: Image.Image, grid: Grid) -> Posterior:
        """Encode a picture, resized to `grid`, to the distribution of its latents."""
        rows, columns = grid
        pixels = autoencoder.to_pixels(pictures.resize(image, (columns * TILE, rows * TILE)))
        return autoencoder.encode(self._autoencoder, pixels.to(self.device))

    def decode(self, latents: torch.Tensor, grid: Grid, *, in_pieces: bool = False) -> Image.Image:
        """Decode latents [tokens, channels] to an RGB picture. Raises BrokenPicture if its pixels are not finite."""
        pixels = autoencoder.decode(self._autoencoder, latents, grid, in_pieces=in_pieces)
        if not pixels.isfinite().all():
            raise BrokenPicture("the pixels are not finite")
        return autoencoder.to_image(pixels)

    def drop_text_encoder(self) -> None:
        """Free the memory of the text encoder; afterwards nothing can be encoded any more."""
        self._text_encoder = None

    def _embed(self, tokens: BatchFeature, template_tokens: int) -> torch.Tensor:
        # all that the processor answers: without its token types, pictures' tokens would get positions of words
        states = self._text_encoder(
            **tokens.to(self.device), output_hidden_states=True, logits_to_keep=1
        ).hidden_states[-1]
        embedding: torch.Tensor = states[0, template_tokens:].to(self.transformer.dtype)
        return embedding


def load(
    card: ModelCard, device: torch.device, profile: MemoryProfile = UNCHANGED, dtype: torch.dtype | None = None
) -> QwenImage:
    """Load a card's model, by default in bf16 on a GPU and in 32 bits on a CPU.

    Raises ModelUnavailable if it cannot be loaded, or is guidance-distilled.
    """
    dtype = dtype or (torch.bfloat16 if device.type == "cuda" else torch.float32)
    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    try:
        pipeline = _place(_pipeline(card, dtype), device, profile)
    except (OSError, ValueError, ImportError) as error:
        raise ModelUnavailable(f"no Qwen-Image model at {card.path}: {error}") from error
    if pipeline.transformer.config.guidance_embeds:
        raise ModelUnavailable(f"{card.path} is guidance-distilled, which this engine does not run")
    try:
        recipes.check_sampler(pipeline.scheduler.config)
    except ValueError as error:
        raise ModelUnavailable(f"the sampler of {card.path}: {error}") from error
    return QwenImage(pipeline, device)


def _place(pipeline: DiffusionPipeline, device: torch.device, profile: MemoryProfile) -> DiffusionPipeline:
    """Put a pipeline's parts on the device, in the form and at the place that the profile says."""
    shares.shrink(pipeline.transformer, 0, profile.cards)
    forms.keep(pipeline.transformer, profile.form, device)
    if profile.offload:
        text_encoder, pipeline.text_encoder = pipeline.text_encoder, None
        pipeline.to(device)
        pipeline.text_encoder = cpu_offload(text_encoder, device, offload_buffers=True)
        return pipeline
    forms.keep(pipeline.text_encoder, profile.form, device)
    return pipeline.to(device)


def _pipeline(card: ModelCard, dtype: torch.dtype) -> DiffusionPipeline:
    if Operation.EDIT not in card.operations:
        return QwenImagePipeline.from_pretrained(card.path, dtype=dtype)
    tokenizer = Qwen2Tokenizer.from_pretrained(card.path, subfolder="tokenizer")
    processor = PictureProcessor(Qwen2VLImageProcessorPil.from_pretrained(card.path, subfolder="processor"), tokenizer)
    return QwenImageEditPlusPipeline.from_pretrained(card.path, tokenizer=tokenizer, processor=processor, dtype=dtype)
