"""Trains an adapter from pictures: `python -m inference.training.adapter --pictures DIR --out FILE`."""

import argparse
import json
import logging
import math
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import fields
from itertools import cycle
from pathlib import Path

import torch
from tqdm import tqdm

from inference.card import ModelCard
from inference.errors import InferenceError, InvalidTraining, TrainingDiverged
from inference.models import catalog, qwen_image
from inference.training import examples
from inference.training.examples import Example
from inference.training.hyperparameters import LAYERS, Hyperparameters, suited
from inference.training.samples import MOST, Sample
from inference.training.trainer import SAVE_SECONDS, Progress, Trainer

SAMPLES = 4
# apart from 1, with which Python ends after any other error
DIVERGED = 3
DESCRIPTION = """Train an adapter (LoRA) from pictures.

The captions of NAME.png, .jpg or .webp are the lines of NAME.txt beside it; one is shown at a time. Pictures without
have the caption of --caption. If there is a NAME.before.png, the training is one of edits: from it to NAME.png, by the
instructions in NAME.txt.

Checkpoints, and the adapter and samples of each evaluation, are in a folder beside FILE, FILE.training. An interrupted
training goes on from there when the same command is given again. FILE is the evaluated adapter with the least loss on
the pictures held out."""
EPILOG = """examples:
  python -m inference.training.adapter --pictures mugs --out mugs.safetensors
  python -m inference.training.adapter --pictures mugs --out mugs.safetensors --caption "a mug, {name}" --rank 8
  python -m inference "a red mug" --adapter mugs.safetensors --out mug.png

Exit status: 0 done, 1 the trainer failed, 2 a bad argument or file, 3 a loss was not finite, 130 interrupted."""
HELP = {
    "steps": "steps to take",
    "batch": "pictures a step",
    "resolution": "pictures are learnt at about this many pixels squared, each in its own proportion",
    "rank": "rank of the adapter",
    "alpha": "its changes are multiplied by alpha / rank (default: the rank)",
    "learning_rate": "the highest learning rate",
    "warm_up": "steps until it is reached",
    "average": "decay of the moving average of the weights",
    "noise_mean": "a picture's noise level is sigmoid(mean + deviation·n)",
    "noise_deviation": "the deviation",
    "noise_uniform": "share of noise levels that are uniform instead",
    "dropout": "share of captions that are left empty",
    "held_out": "share of pictures that only measure",
    "every": "steps from one evaluation to the next",
    "seed": "the same seed gives the same adapter on the same machine",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Train and return the exit status (see EPILOG)."""
    options = _parser().parse_args(arguments)
    logging.getLogger("peft").setLevel(logging.ERROR)
    with _signals() as stopped:
        return _run(options, stopped)


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Collect the signals that ask for an end, which comes after the present step."""
    stopped: list[int] = []
    before = {
        number: signal.signal(number, lambda got, _: stopped.append(got)) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _run(options: argparse.Namespace, stopped: Sequence[int]) -> int:
    folder = options.out.with_name(f"{options.out.name}.training")
    try:
        _check_place(options.out)
        trainer = _trainer(options)
        folder.mkdir(parents=True, exist_ok=True)
    except (InferenceError, OSError) as error:
        return _fail(error, 2)
    try:
        _train(trainer, folder, stopped, options)
    except TrainingDiverged as error:
        if trainer.best:
            trainer.write(options.out)
        return _fail(f"{error}; {_result(trainer, options.out)}", DIVERGED)
    except InferenceError as error:
        return _fail(error, 2)
    if not trainer.done:
        return _fail(f"stopped after step {trainer.step_index}; the same command goes on from there", 130)
    trainer.write(options.out)
    sys.stdout.write(f"{_result(trainer, options.out)}\n")
    return 0


def _check_place(out: Path) -> None:
    """Raise InvalidTraining if no file can be written there, before anything that takes its time."""
    if out.is_dir():
        raise InvalidTraining(f"{out} is a folder; name the file to write")
    parent = next(each for each in out.absolute().parents if each.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise InvalidTraining(f"{out} cannot be written: {parent} is not a folder that may be written to")


def _fail(reason: object, status: int) -> int:
    sys.stderr.write(f"python -m inference.training.adapter: {reason}\n")
    return status


def _result(trainer: Trainer, out: Path) -> str:
    return f"{out} is the adapter of step {trainer.best.step}" if trainer.best else "there is no adapter yet"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m inference.training.adapter",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--pictures", type=Path, required=True, metavar="DIR", help="folder of pictures and captions")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="where to write, as .safetensors")
    parser.add_argument("--caption", help="of pictures without a .txt; {name} stands for the picture's name")
    parser.add_argument("--model", help="a diffusers folder or hub name (default: KILN_MODEL, else the house model)")
    parser.add_argument(
        "--sample",
        action="append",
        default=[],
        metavar="PROMPT",
        help=f"draw this at each evaluation; up to {MOST} (default: the captions of the first four pictures)",
    )
    parser.add_argument("--json", action="store_true", help="tell of each step in a line of JSON on standard output")
    parser.add_argument(
        "--save-seconds", type=_seconds, default=SAVE_SECONDS, metavar="S", help="from one checkpoint to the next"
    )
    parser.add_argument("--layers", choices=LAYERS, help="layers that the adapter changes (default: all)")
    kinds = {field.name: type(field.default) for field in fields(Hyperparameters)}
    for name, text in HELP.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=kinds[name], help=text, metavar="N")
    return parser


def _seconds(text: str) -> float:
    with suppress(ValueError):
        if 0 <= (value := float(text)) < math.inf:
            return value
    raise argparse.ArgumentTypeError(f"{text} is not a number of seconds")


def _trainer(options: argparse.Namespace) -> Trainer:
    card = catalog.card(options.model)
    given = examples.read(options.pictures, card, options.caption)
    shown = _samples(options, given, card)
    model = qwen_image.load(card, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    chosen = {field.name: getattr(options, field.name) for field in fields(Hyperparameters)}
    return Trainer(model, card, given, suited(model.transformer.num_parameters(), **chosen), shown)


def _samples(options: argparse.Namespace, given: Sequence[Example], card: ModelCard) -> list[Sample]:
    """Return what to draw: the prompts asked for, or some captions; of edits with the pictures that they change."""
    if len(options.sample) > MOST:
        raise InvalidTraining(f"there must be at most {MOST} samples, not {len(options.sample)}")
    for prompt in options.sample:
        examples.check_words("a sample", prompt, card, edits=given[0].before is not None)
    prompts = options.sample or [example.captions[0] for example in given[:SAMPLES]]
    return [Sample(prompt, example.before) for prompt, example in zip(prompts, cycle(given), strict=False)]


def _train(trainer: Trainer, folder: Path, stopped: Sequence[int], options: argparse.Namespace) -> None:
    """Train until all steps are done or a signal came, and leave a checkpoint."""
    running = trainer.run(folder, options.save_seconds)
    with tqdm(total=trainer.chosen.steps, unit="step", disable=options.json) as bar:
        for progress in running:
            if options.json:
                _print(progress)
            else:
                _show(bar, progress)
            if stopped:
                running.close()
                break


def _show(bar: tqdm, progress: Progress) -> None:
    bar.set_postfix_str(f"loss {progress.loss:.4f}, {progress.seconds_left / 60:.1f} min left")
    bar.update(progress.step - bar.n)
    if progress.evaluation:
        told = f"step {progress.step}: loss {progress.evaluation.loss:.4f} on pictures held out"
        tqdm.write(told, file=sys.stderr)


def _print(progress: Progress) -> None:
    """Tell a program of a step, as a line of JSON."""
    told = progress._asdict()
    if found := progress.evaluation:
        told["evaluation"] = {"step": found.step, "loss": found.loss, "score": found.score}
    sys.stdout.write(json.dumps(told) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
