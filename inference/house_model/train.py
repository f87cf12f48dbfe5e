"""Trains the house model: `python -m inference.house_model.train --out FOLDER --hours 10`.

There are five stages, each from the results of those before: tokenizer, vae, text, transformer, decoder. A finished
stage is skipped, unless it is asked for by name with more hours; an unfinished one goes on from its last checkpoint, at
most five minutes old, whenever and however it was ended. The decoder comes last, and may come at any time, since the
latents do not depend on it. FOLDER/progress.json tells how far the training is.

Hours are hours of computing, of all threads together; with neighbours on the same cores it takes longer by the clock.

With `--former FOLDER`, an exported model, training continues from that: the autoencoder, the text encoder and the
transformer start from its own, the first two so that the transformer still understands them.
"""

import argparse
import logging
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKLQwenImage
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer

from inference.house_model import architecture, fidelity, progress, text, tokenizer, transformer, vae
from inference.house_model.pace import Pace
from inference.house_model.stage import publish
from inference.house_model.world import draw_scene
from inference.models.autoencoder import flatten_time

log = logging.getLogger(__name__)

SHARES = {"vae": 0.16, "text": 0.05, "transformer": 0.7, "decoder": 0.09}
JUDGED = 100
RESULTS = {"text": "text_encoder"}


@dataclass(frozen=True)
class Training:
    """A training's folder, and the exported model that it started from, if any."""

    out: Path
    former: Path | None = None

    def checkpoint(self, stage: str) -> Path:
        return self.out / f"{stage}.pt"


def _tokenizer(training: Training, pace: Pace) -> None:
    """Build the vocabulary, or keep the former one, so that the former encoder's embeddings stay right."""
    former = training.former
    words = Qwen2Tokenizer.from_pretrained(former / "tokenizer") if former else tokenizer.build()
    architecture.processor(words).save_pretrained(training.out / "processor")
    publish(training.out / "tokenizer", words.save_pretrained)


def _autoencoder(folder: Path) -> AutoencoderKLQwenImage:
    return AutoencoderKLQwenImage.from_pretrained(folder, dtype=torch.float32)


def _vae(training: Training, pace: Pace) -> None:
    former = _autoencoder(training.former / "vae") if training.former else None
    model = _autoencoder(training.former / "vae") if training.former else architecture.autoencoder()
    vae.train(model, training.checkpoint("vae"), pace, former)
    mean, std = vae.statistics(model)
    model.register_to_config(latents_mean=mean, latents_std=std)
    publish(training.out / "vae", model.save_pretrained)
    _tell_fidelity(training.out / "vae")


def _tell_fidelity(folder: Path) -> None:
    model, dice = flatten_time(_autoencoder(folder)), random.Random(3)
    for line in fidelity.LINES:
        scenes = [draw_scene(dice, held_out=True) for _ in range(JUDGED)]
        _, decoded = fidelity.read_rightly(model, scenes, (128, 128), line)
        log.info("%s: %.1f %% read rightly after decoding, line %.1f %%", folder.name, 100 * decoded, 100 * line)


def _decoder(training: Training, pace: Pace) -> None:
    model = _autoencoder(training.out / "vae")
    vae.refine(model, training.checkpoint("decoder"), pace)
    publish(training.out / "decoder", model.save_pretrained)
    _tell_fidelity(training.out / "decoder")


def _reader(encoder: Qwen2_5_VLForConditionalGeneration, words: Qwen2Tokenizer) -> text.Reader:
    return text.Reader(encoder, architecture.processor(words))


def _text(training: Training, pace: Pace) -> None:
    words = Qwen2Tokenizer.from_pretrained(training.out / "tokenizer")
    model, former = architecture.text_encoder(words), None
    if training.former:
        known = Qwen2Tokenizer.from_pretrained(training.former / "tokenizer")
        encoder = Qwen2_5_VLForConditionalGeneration.from_pretrained(training.former / "text_encoder")
        former = _reader(encoder, known)
    text.train(_reader(model, words), training.checkpoint("text"), pace, former)
    publish(training.out / "text_encoder", model.save_pretrained)


def _transformer(training: Training, pace: Pace) -> None:
    transformer.train(training.out, pace, training.former, progress.look)
    publish(training.out / "transformer", transformer.load(training.out).save_pretrained)


STAGES: dict[str, Callable[[Training, Pace], None]] = {
    "tokenizer": _tokenizer,
    "vae": _vae,
    "text": _text,
    "transformer": _transformer,
    "decoder": _decoder,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the checkpoints")
    parser.add_argument("--hours", type=float, default=10.0, help="hours of computing (default: %(default)s)")
    parser.add_argument("--former", type=Path, help="folder of an exported model to start from")
    parser.add_argument("--stage", choices=STAGES, help="only this stage, with all the hours")
    parser.add_argument("--threads", type=int, default=2, help="threads that compute (default: %(default)s)")
    chosen = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(chosen.threads)
    torch.set_flush_denormal(True)
    torch._dynamo.config.recompile_limit = 64
    chosen.out.mkdir(parents=True, exist_ok=True)
    training = Training(chosen.out, chosen.former)
    hours = {name: chosen.hours * SHARES.get(name, 0.0) for name in STAGES}
    if chosen.stage:
        hours = {chosen.stage: chosen.hours}
    for position, name in enumerate(hours):
        if not chosen.stage and (chosen.out / RESULTS.get(name, name)).exists():
            continue
        later = 3600 * sum(list(hours.values())[position + 1 :])
        pace = Pace(name, max(3600 * hours[name], 1.0), chosen.out / "progress.json", later)
        STAGES[name](training, pace)


if __name__ == "__main__":
    main()
