"""Train the house model from nothing: `python -m inference.house_model.train --out FOLDER --hours 2`.

Five stages, each from the checkpoints of the ones before: tokenizer, vae, decoder, text, transformer. A finished
stage is skipped; the transformer goes on from its last checkpoint, and so does the decoder where it is asked for by
name, at any time, since the latents do not change with it. Checkpoints are safetensors.
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

SHARES = {"vae": 0.1, "decoder": 0.15, "text": 0.05, "transformer": 0.7}


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


def _decoder(out: Path, seconds: float) -> None:
    refined = out / "decoder"
    model = AutoencoderKLQwenImage.from_pretrained(refined if refined.exists() else out / "vae")
    vae.refine(model, Pace("decoder", seconds))
    model.save_pretrained(refined)
    fidelity = vae.fidelity(AutoencoderKLQwenImage.from_pretrained(refined))
    log.info("decoder: %.1f dB on held-out pictures", fidelity)


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
    "decoder": _decoder,
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
        goes_on = name == "transformer" or name == "decoder" == chosen.stage
        finished = not goes_on and (chosen.out / {"text": "text_encoder"}.get(name, name)).exists()
        if chosen.stage in (None, name) and not finished:
            share = 1.0 if chosen.stage else SHARES.get(name, 0.0)
            stage(chosen.out, share * chosen.hours * 3600)


if __name__ == "__main__":
    main()
