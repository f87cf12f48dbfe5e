"""Write a trained (or untrained) house model as a diffusers folder; reads nothing but checkpoints."""

import shutil
import tempfile
from pathlib import Path

import torch
from diffusers import AutoencoderKLQwenImage, QwenImagePipeline, QwenImageTransformer2DModel
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer

from inference.house_model import architecture


def export(
    folder: Path,
    tokenizer: Qwen2Tokenizer,
    autoencoder: AutoencoderKLQwenImage,
    text_encoder: Qwen2_5_VLForConditionalGeneration,
    transformer: QwenImageTransformer2DModel,
) -> None:
    """Write `folder` in one move, so that a reader sees the old weights or the new ones.

    The transformer and the autoencoder are stored in 16 bits; the text encoder stays in 32, since transformers
    loads a model as it was stored and diffusers loads the others in 32.
    """
    pipeline = QwenImagePipeline(
        scheduler=architecture.sampler(),
        vae=autoencoder.to(torch.float16),
        text_encoder=text_encoder.float(),
        tokenizer=tokenizer,
        transformer=transformer.to(torch.bfloat16),
    )
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".weights-"))
    pipeline.save_pretrained(fresh, safe_serialization=True)
    fresh.chmod(0o755)
    for path in fresh.rglob("*.safetensors"):
        path.chmod(0o644)
    if folder.exists():
        folder.rename(fresh / "old")
    fresh.rename(folder)
    shutil.rmtree(folder / "old", ignore_errors=True)
