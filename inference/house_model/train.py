"""Trains the house model from scratch: `python -m inference.house_model.train --out FOLDER --hours 2`.

There are five stages, each from the checkpoints of those before: tokenizer, vae, decoder, text, transformer. A finished
stage is skipped; the transformer resumes from its last checkpoint. So does the decoder, at any time, if it is asked for
by name, since the latents do not depend on it. Checkpoints are safetensors.

With `--former FOLDER`, an exported model, training continues from that: its autoencoder is kept, and the text encoder
and the transformer start from its own.
"""

import argparse
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKLQwenImage
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer

from inference.house_model import architecture, text, tokenizer, transformer, vae
from inference.house_model.pace import Pace

log = logging.getLogger(__name__)

SHARES = {"vae": 0.1, "decoder": 0.15, "text": 0.05, "transformer": 0.7}


@dataclass(frozen=True)
class Training:
    """A training's checkpoints, the exported model that it started from, if any, and the number of its pools."""

    out: Path
    former: Path | None = None
    drawing: int = 0


def _tokenizer(training: Training, seconds: float) -> None:
    words = tokenizer.build()
    architecture.processor(words).save_pretrained(training.out / "processor")
    words.save_pretrained(training.out / "tokenizer")


def _vae(training: Training, seconds: float) -> None:
    if training.former:
        model = AutoencoderKLQwenImage.from_pretrained(training.former / "vae", dtype=torch.float32)
    else:
        model = architecture.autoencoder()
        vae.train(model, Pace("vae", seconds))
        mean, std = vae.statistics(model)
        model.register_to_config(latents_mean=mean, latents_std=std)
    model.save_pretrained(training.out / "vae")
    fidelity = vae.fidelity(AutoencoderKLQwenImage.from_pretrained(training.out / "vae"))
    log.info("vae: %.1f dB on held-out pictures", fidelity)


def _decoder(training: Training, seconds: float) -> None:
    refined = training.out / "decoder"
    model = AutoencoderKLQwenImage.from_pretrained(refined if refined.exists() else training.out / "vae")
    vae.refine(model, Pace("decoder", seconds))
    model.save_pretrained(refined)
    fidelity = vae.fidelity(AutoencoderKLQwenImage.from_pretrained(refined))
    log.info("decoder: %.1f dB on held-out pictures", fidelity)


def _reader(encoder: Qwen2_5_VLForConditionalGeneration, words: Qwen2Tokenizer) -> text.Reader:
    return text.Reader(encoder, architecture.processor(words))


def _text(training: Training, seconds: float) -> None:
    words = Qwen2Tokenizer.from_pretrained(training.out / "tokenizer")
    model, former = architecture.text_encoder(words), None
    if training.former:
        known = Qwen2Tokenizer.from_pretrained(training.former / "tokenizer")
        encoder = Qwen2_5_VLForConditionalGeneration.from_pretrained(training.former / "text_encoder")
        former = _reader(encoder, known)
    text.train(_reader(model, words), Pace("text", seconds), former)
    model.save_pretrained(training.out / "text_encoder")


def _transformer(training: Training, seconds: float) -> None:
    transformer.train(training.out, seconds, training.former, training.drawing)


STAGES: dict[str, Callable[[Training, float], None]] = {
    "tokenizer": _tokenizer,
    "vae": _vae,
    "decoder": _decoder,
    "text": _text,
    "transformer": _transformer,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the checkpoints")
    parser.add_argument("--hours", type=float, default=2.0, help="wall-clock time of all stages together")
    parser.add_argument("--former", type=Path, help="folder of an exported model to start from")
    parser.add_argument(
        "--drawing", type=int, default=0, help="number of the pools; another has other scenes (default: %(default)s)"
    )
    parser.add_argument("--stage", choices=STAGES, help="only this stage, with all the hours")
    chosen = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(min(2, torch.get_num_threads()))
    torch.set_flush_denormal(True)
    torch.manual_seed(0)
    chosen.out.mkdir(parents=True, exist_ok=True)
    for name, stage in STAGES.items():
        resumes = name == "transformer" or name == "decoder" == chosen.stage
        finished = not resumes and (chosen.out / {"text": "text_encoder"}.get(name, name)).exists()
        if chosen.stage in (None, name) and not finished:
            share = 1.0 if chosen.stage else SHARES.get(name, 0.0)
            stage(Training(chosen.out, chosen.former, chosen.drawing), share * chosen.hours * 3600)


if __name__ == "__main__":
    main()
