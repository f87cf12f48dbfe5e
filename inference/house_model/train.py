"""Train the house model from nothing: `python -m inference.house_model.train --out FOLDER --hours 2`.

Four stages, each from the checkpoints of the ones before: tokenizer, vae, text, transformer. A finished stage is
skipped, the transformer goes on from its last checkpoint. Checkpoints are safetensors.
"""

import argparse
import logging
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import AutoencoderKLQwenImage
from transformers import Qwen2Tokenizer

from inference.house_model import architecture, tokenizer, vae
from inference.house_model.pace import Pace

log = logging.getLogger(__name__)

SHARES = {"vae": 0.12, "text": 0.05, "transformer": 0.83}


def _tokenizer(out: Path, seconds: float) -> None:
    tokenizer.build().save_pretrained(out / "tokenizer")


def _vae(out: Path, seconds: float) -> None:
    model = architecture.autoencoder()
    vae.train(model, Pace("vae", seconds))
    mean, std = vae.statistics(model)
    model.register_to_config(latents_mean=mean, latents_std=std)
    model.save_pretrained(out / "vae")
    fidelity = vae.fidelity(AutoencoderKLQwenImage.from_pretrained(out / "vae"))
    log.info("vae: %.1f dB on held-out pictures", fidelity)


def _text(out: Path, seconds: float) -> None:
    from inference.house_model import text

    words = Qwen2Tokenizer.from_pretrained(out / "tokenizer")
    model = architecture.text_encoder(words)
    text.train(model, words, Pace("text", seconds))
    model.save_pretrained(out / "text_encoder")


def _transformer(out: Path, seconds: float) -> None:
    from inference.house_model import transformer

    transformer.train(out, seconds)


STAGES: dict[str, Callable[[Path, float], None]] = {
    "tokenizer": _tokenizer,
    "vae": _vae,
    "text": _text,
    "transformer": _transformer,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the checkpoints")
    parser.add_argument("--hours", type=float, default=2.0, help="wall-clock time of all stages together")
    parser.add_argument("--stage", choices=STAGES, help="only this stage, with all the hours")
    chosen = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(min(2, torch.get_num_threads()))
    torch.set_flush_denormal(True)
    torch.manual_seed(0)
    chosen.out.mkdir(parents=True, exist_ok=True)
    for name, stage in STAGES.items():
        finished = name != "transformer" and (chosen.out / {"text": "text_encoder"}.get(name, name)).exists()
        if chosen.stage in (None, name) and not finished:
            share = 1.0 if chosen.stage else SHARES.get(name, 0.0)
            stage(chosen.out, share * chosen.hours * 3600)


if __name__ == "__main__":
    main()
