"""The engine on its own, without a database or Tokens: `python -m inference "a red circle" --out x.png`.

`--operation edit --image x.png` edits a picture, `--operation outpaint --image x.png --extend 0,0,64,0` widens it.

Arguments and files are checked before torch is imported, which takes seconds.
"""

import argparse
import io
import os
import re
import secrets
import sys
import threading
import time
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import wait
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from PIL import Image
from safetensors import SafetensorError

from inference import picture_files, pictures
from inference.adapters import tensors
from inference.errors import InferenceError
from inference.models import catalog
from inference.plans import plan
from inference.request import MAX_SEED, Operation, Request

BAR = 30
MAX_N = 64
EXAMPLES = """examples:
  python -m inference "a red circle on a white background" --seed 7 --out circle.png
  python -m inference "make the circle blue" --operation edit --image circle.png --out blue.png
  python -m inference --operation outpaint --image circle.png --extend 0,0,64,0 --out wide.png

The paths of the pictures are printed, one a line; progress and errors go to stderr.
Exit status: 0 done, 1 the engine failed, 2 a bad argument or file, 130 interrupted."""


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one sentence, without the usage before it."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


def main(arguments: list[str] | None = None) -> int:
    """Make the pictures and print their paths; return the exit status (see EXAMPLES)."""
    options = _parser().parse_args(arguments)
    try:
        requests, paths = _requests(options), _paths(options.out, options.n)
        _check_files(options, paths)
    except (InferenceError, OSError) as error:
        return _fail(error, 2)
    try:
        _make(options.model, options.backend, requests, paths)
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    except (InferenceError, OSError, RuntimeError, MemoryError, SafetensorError) as error:
        return _fail(error, 1)
    return 0


def _fail(reason: object, status: int) -> int:
    sentence = " ".join(str(reason).split()) or type(reason).__name__
    print(f"python -m inference: {sentence}", file=sys.stderr)
    return status


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m inference",
        description="Make pictures from a prompt, or from other pictures.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("prompt", nargs="?", default="", help="may be missing where a picture is only continued")
    parser.add_argument("--out", type=Path, default=Path("picture.png"), help="where to write (default: %(default)s)")
    parser.add_argument("--n", type=_whole, default=1, help=f"how many pictures, up to {MAX_N}; x.png, x-2.png and on")
    parser.add_argument("--width", type=_whole, help="pixels, a multiple of 16 (default: the model's)")
    parser.add_argument("--height", type=_whole, help="pixels, a multiple of 16 (default: the model's)")
    parser.add_argument("--steps", type=_whole, help="denoising steps, 1 to 100 (default: the adapter's or model's)")
    parser.add_argument(
        "--guidance", type=_number, help="scale; 1 or less turns guidance off (default: the adapter's or model's)"
    )
    parser.add_argument("--negative", default="", help="what the picture should not show")
    parser.add_argument(
        "--seed",
        type=_whole,
        help=f"the first picture's, 0 to {MAX_SEED}; the next count up, and on from 0 (default: random)",
    )
    parser.add_argument(
        "--operation",
        choices=[operation.value for operation in Operation],
        default=Operation.GENERATE.value,
        help="(default: %(default)s)",
    )
    parser.add_argument(
        "--image", type=Path, action="append", default=[], help="a PNG, JPEG or WebP; up to three to edit"
    )
    parser.add_argument("--mask", type=Path, help="a picture, white where inpaint repaints")
    parser.add_argument(
        "--strength", type=_number, help="how far img2img, inpaint and redraw go back to noise, up to 1"
    )
    parser.add_argument(
        "--extend", type=_four, default=(0, 0, 0, 0), metavar="LEFT,TOP,RIGHT,BOTTOM", help="pixels that outpaint adds"
    )
    parser.add_argument("--box", type=_four, metavar="LEFT,TOP,RIGHT,BOTTOM", help="pixels that redraw repaints")
    parser.add_argument(
        "--adapter",
        type=_adapter,
        action="append",
        default=[],
        metavar="FILE[=SCALE]",
        help="a LoRA's safetensors file; several add up",
    )
    parser.add_argument("--deterministic", action="store_true", help="the same bits every time, one picture at a time")
    parser.add_argument(
        "--step-cache", type=_number, default=0.0, help="change below which blocks are reused (default: 0, off)"
    )
    parser.add_argument("--model", help="a diffusers folder or hub name (default: KILN_MODEL, else the house model)")
    parser.add_argument(
        "--backend",
        choices=plan.BACKENDS,
        help="what runs the transformer: torch, or a plan (default: KILN_BACKEND, else torch)",
    )
    return parser


def _requests(options: argparse.Namespace) -> list[Request]:
    card = catalog.card(options.model)
    if not 1 <= options.n <= MAX_N:
        raise InferenceError(f"n must be from 1 to {MAX_N}")
    seed = secrets.randbelow(MAX_SEED + 1) if options.seed is None else options.seed
    if not 0 <= seed <= MAX_SEED:
        raise InferenceError(f"seed must be a whole number from 0 to {MAX_SEED}")
    prompt = unicodedata.normalize("NFC", options.prompt)
    if Operation(options.operation).needs_prompt and _is_blank(prompt):
        raise InferenceError(f"prompt must not be blank to {options.operation}")
    repaints = (Operation.IMG2IMG, Operation.INPAINT, Operation.REDRAW)
    strength = card.default_strength if options.operation in repaints else 1.0
    images = tuple(picture_files.open_image(path, card) for path in options.image)
    mask = picture_files.open_mask(options.mask, card) if options.mask else None
    width, height = pictures.default_size(options.operation, [image.size for image in images], options.extend, card)
    default_steps, default_guidance_scale = catalog.defaults(card, options.adapter)
    requests = [
        Request(
            prompt,
            negative_prompt=unicodedata.normalize("NFC", options.negative),
            width=width if options.width is None else options.width,
            height=height if options.height is None else options.height,
            steps=default_steps if options.steps is None else options.steps,
            guidance_scale=default_guidance_scale if options.guidance is None else options.guidance,
            seed=(seed + index) % (MAX_SEED + 1),
            operation=options.operation,
            images=images,
            mask=mask,
            strength=strength if options.strength is None else options.strength,
            adapters=tuple(options.adapter),
            extend=options.extend,
            box=options.box,
            deterministic=options.deterministic,
            step_cache=options.step_cache,
        )
        for index in range(options.n)
    ]
    for request in requests:
        catalog.validate(request, card)
    return requests


def _is_blank(prompt: str) -> bool:
    return not any(character.isprintable() and not character.isspace() for character in prompt)


def _whole(text: str) -> int:
    if not re.fullmatch("-?[0-9]{1,18}", text):
        raise argparse.ArgumentTypeError(f"must be a whole number, not {text!r}")
    return int(text)


def _number(text: str) -> float:
    if not re.fullmatch(r"-?[0-9]{1,18}(\.[0-9]{1,18})?", text):
        raise argparse.ArgumentTypeError(f"must be a number, not {text!r}")
    return float(text)


def _four(text: str) -> tuple[int, int, int, int]:
    try:
        left, top, right, bottom = (_whole(number) for number in text.split(","))
    except (ValueError, argparse.ArgumentTypeError) as error:
        raise argparse.ArgumentTypeError(f"must be four whole numbers, as in 0,0,64,64, not {text!r}") from error
    return left, top, right, bottom


def _adapter(text: str) -> tuple[str, float]:
    path, _, scale = text.rpartition("=")
    try:
        return path, _number(scale)
    except argparse.ArgumentTypeError:
        return text, 1.0


def _paths(out: Path, count: int) -> list[Path]:
    return [out] + [out.with_stem(f"{out.stem}-{index}") for index in range(2, count + 1)]


def _check_files(options: argparse.Namespace, paths: Sequence[Path]) -> None:
    """Check that model and adapters can be read and the pictures can be written; make the folder for them."""
    catalog.check_folder(catalog.card(options.model))
    for path, _ in options.adapter:
        _check_adapter(Path(path))
    try:
        Image.new("RGB", (1, 1)).save(io.BytesIO(), Image.registered_extensions()[options.out.suffix.lower()])
    except (KeyError, OSError, ValueError) as error:
        name = options.out.name or options.out
        raise InferenceError(f"{name} must have a picture's extension, such as .png") from error
    options.out.parent.mkdir(parents=True, exist_ok=True)
    for path in paths:
        if path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
            raise InferenceError(f"{path} cannot be written")


def _check_adapter(path: Path) -> None:
    """Check that this is a safetensors file; whether it fits the model, the engine finds out once that is loaded."""
    try:
        if not path.is_file():
            raise InferenceError(f"there is no adapter {path}")
        with tensors.opened(path):
            pass
    except (ValueError, RecursionError, OSError) as error:
        raise InferenceError(f"adapter {path.name}: not a safetensors file") from error


def _make(model: str | None, backend: str | None, requests: list[Request], paths: list[Path]) -> None:
    began, loaded = time.monotonic(), False

    def line() -> str:
        return _progress(requests) if loaded else f"loading the model, {time.monotonic() - began:.0f} s"

    with _shown(line):
        from inference.backends.choice import from_environment
        from inference.engine import Engine

        with Engine(model, backend=from_environment(backend)) as engine:
            futures = [engine.submit(request) for request in requests]
            loaded = True
            wait(futures)
    made = [(future, path) for future, path in zip(futures, paths, strict=True) if not future.exception()]
    for future, path in made:
        future.result().image.save(path)
        print(path)
    for warning in dict.fromkeys(warning for future, _ in made for warning in future.result().warnings):
        print(f"python -m inference: {warning}", file=sys.stderr)
    for future in futures:
        future.result()


@contextmanager
def _shown(line: Callable[[], str]) -> Iterator[None]:
    """Show the line on stderr at once, and again whenever it has changed, until the block ends."""
    ended = threading.Event()

    def show() -> None:
        shown, last = "", False
        while not last:
            last = ended.wait(0.1) if shown else False
            if (now := line()) != shown:
                sys.stderr.write(f"\r{now.ljust(len(shown))}")
                sys.stderr.flush()
                shown = now
        sys.stderr.write("\n")

    thread = threading.Thread(target=show, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _progress(requests: Sequence[Request]) -> str:
    done, total = sum(request.state.step_index for request in requests), sum(request.steps_due for request in requests)
    filled = BAR * done // total
    return f"[{'#' * filled}{'.' * (BAR - filled)}] step {done} of {total}"


if __name__ == "__main__":
    sys.exit(main())
