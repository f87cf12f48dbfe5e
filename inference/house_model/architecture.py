"""The untrained parts of the house model: diffusers' and transformers' own classes at laptop size."""

from typing import Any

import torch
from diffusers import (
    AutoencoderKLQwenImage,
    FlowMatchEulerDiscreteScheduler,
    QwenImageTransformer2DModel,
)
from torch import nn
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from inference.models.processor import PictureProcessor

TEXT_WIDTH = 128
LATENT_CHANNELS = 8
HEADS, HEAD_WIDTH, LAYERS = 6, 32, 6


def autoencoder(mean: list[float] | None = None, std: list[float] | None = None) -> AutoencoderKLQwenImage:
    """Make an 8x autoencoder with 8 latent channels; `mean` and `std` are those of its latents, one a channel."""
    return AutoencoderKLQwenImage(
        base_dim=8,
        z_dim=LATENT_CHANNELS,
        dim_mult=[1, 2, 4, 8],
        num_res_blocks=2,
        temperal_downsample=[False, True, True],
        latents_mean=mean or [0.0] * LATENT_CHANNELS,
        latents_std=std or [1.0] * LATENT_CHANNELS,
    )


def text_encoder(tokenizer: Qwen2Tokenizer) -> Qwen2_5_VLForConditionalGeneration:
    """Make a two-layer Qwen2.5-VL of width 128, with the smallest vision tower that the class accepts."""
    text: dict[str, Any] = {
        "hidden_size": TEXT_WIDTH,
        "intermediate_size": 3 * TEXT_WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-6,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 6, 6]},
        "tie_word_embeddings": True,
        "bos_token_id": tokenizer.eos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision: dict[str, Any] = {
        "depth": 1,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_heads": 2,
        "out_hidden_size": TEXT_WIDTH,
        "fullatt_block_indexes": [0],
    }
    names = {
        "image_token_id": "<|image_pad|>",
        "video_token_id": "<|video_pad|>",
        "vision_start_token_id": "<|vision_start|>",
        "vision_end_token_id": "<|vision_end|>",
    }
    numbers = {field: tokenizer.convert_tokens_to_ids(token) for field, token in names.items()}
    config = Qwen2_5_VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=True, **numbers)
    return Qwen2_5_VLForConditionalGeneration(config)


def processor(tokenizer: Qwen2Tokenizer) -> PictureProcessor:
    """Make the processor that shows the text encoder a picture at 56 pixels a side, as four tokens."""
    return PictureProcessor(
        Qwen2VLImageProcessorPil(size={"shortest_edge": 56 * 56, "longest_edge": 64 * 64}), tokenizer
    )


def transformer() -> QwenImageTransformer2DModel:
    """Make a six-layer image transformer whose blocks start as the identity and whose first prediction is zero.

    Zero-initialised modulation and output follow DiT (Peebles and Xie 2023, adaLN-Zero).
    """
    model = QwenImageTransformer2DModel(
        patch_size=2,
        in_channels=4 * LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        num_layers=LAYERS,
        attention_head_dim=HEAD_WIDTH,
        num_attention_heads=HEADS,
        joint_attention_dim=TEXT_WIDTH,
        axes_dims_rope=(8, 12, 12),
    )
    zeroed: list[nn.Linear] = [model.proj_out, model.norm_out.linear]
    for block in model.transformer_blocks:
        zeroed += [block.img_mod[1], block.txt_mod[1]]
    for layer in zeroed:
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    return model


def sampler() -> FlowMatchEulerDiscreteScheduler:
    """Make the noise schedule: the more image tokens (64 to 256 here), the more it is shifted towards noise."""
    return FlowMatchEulerDiscreteScheduler(
        num_train_timesteps=1000,
        shift=1.0,
        use_dynamic_shifting=True,
        time_shift_type="exponential",
        base_image_seq_len=64,
        base_shift=0.5,
        max_image_seq_len=256,
        max_shift=0.8,
        shift_terminal=0.02,
    )


def pack(latents: torch.Tensor) -> torch.Tensor:
    """Pack latents (batch, channels, height, width) into tokens (batch, height/2 · width/2, 4 · channels)."""
    batch, channels, height, width = latents.shape
    tiles = latents.view(batch, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return tiles.reshape(batch, height * width // 4, 4 * channels)
