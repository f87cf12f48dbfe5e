"""Writes a trained house model as a diffusers folder: `python -m inference.house_model.export --from FOLDER`."""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLQwenImage, QwenImagePipeline, QwenImageTransformer2DModel
from transformers import Qwen2_5_VLForConditionalGeneration

from inference import previews
from inference.house_model import WEIGHTS, architecture, pool, world
from inference.house_model.transformer import load
from inference.models.autoencoder import flatten_time
from inference.models.processor import PictureProcessor

# what `inference.models.catalog` reads beside the weights
CARD: dict[str, Any] = {
    "name": "kiln-house",
    "min_side": 64,
    "max_side": 1024,
    "default_width": 128,
    "default_height": 128,
    "default_steps": 20,
    "default_guidance_scale": 3.0,
    "condition_area": None,
    "description": "A small Qwen-Image trained on drawn scenes: flat coloured shapes on a background, at 128 to 256 "
    "pixels; prompts and edits in English and Chinese.",
}


def export(
    folder: Path,
    processor: PictureProcessor,
    autoencoder: AutoencoderKLQwenImage,
    text_encoder: Qwen2_5_VLForConditionalGeneration,
    transformer: QwenImageTransformer2DModel,
) -> None:
    """Write the whole model beside `folder` and move it there, so that the folder is never half written.

    The transformer and the autoencoder are stored in 16 bits. The text encoder stays in 32, since transformers loads a
    model in the type it was stored in, while diffusers loads the others in 32.
    """
    colours = previews.fit(flatten_time(autoencoder.float()), world.pictures())
    pipeline = QwenImagePipeline(
        scheduler=architecture.sampler(),
        vae=autoencoder.to(torch.float16),
        text_encoder=text_encoder.float(),
        tokenizer=processor.tokenizer,
        transformer=transformer.to(torch.bfloat16),
    )
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".weights-") as scratch:
        fresh = Path(scratch, "new")
        pipeline.save_pretrained(fresh, safe_serialization=True)
        _add_processor(fresh, processor)
        (fresh / "kiln.json").write_text(json.dumps(CARD, indent=2) + "\n")
        colours.save(fresh)
        for path in fresh.rglob("*.safetensors"):
            path.chmod(0o644)
        _forget_origin(fresh / "vae" / "config.json")
        if folder.exists():
            folder.rename(Path(scratch, "old"))
        fresh.rename(folder)


def _add_processor(folder: Path, processor: PictureProcessor) -> None:
    """Add what the pipelines for edits also need, under the name of transformers' own class."""
    processor.save_pretrained(folder / "processor")
    index = json.loads((folder / "model_index.json").read_text())
    index["processor"] = ["transformers", "Qwen2VLProcessor"]
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")
    for config in folder.rglob("*_config.json"):
        config.write_text(config.read_text().replace("PictureProcessor", "Qwen2VLProcessor"))


def _forget_origin(config: Path) -> None:
    """Remove the checkpoint's path on the machine that trained it."""
    kept = {name: value for name, value in json.loads(config.read_text()).items() if name != "_name_or_path"}
    config.write_text(json.dumps(kept, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description="Write a trained house model as a diffusers folder.")
    parser.add_argument("--from", type=Path, required=True, dest="source", help="folder of the training's checkpoints")
    parser.add_argument("--to", type=Path, default=WEIGHTS, help="the model's folder (default: %(default)s)")
    chosen = parser.parse_args()
    frozen = pool.load_frozen(chosen.source)
    processor = architecture.processor(frozen.reader.words)
    export(chosen.to, processor, frozen.autoencoder, frozen.reader.model, load(chosen.source))


if __name__ == "__main__":
    main()
