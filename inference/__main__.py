"""The engine on its own, without a database or Tokens: `python -m inference "a red circle" --out x.png`.

`--operation edit --image x.png` edits a picture, `--operation outpaint --image x.png --extend 0,0,64,0` widens it.
"""

import argparse
import secrets
import sys
from collections.abc import Sequence
from concurrent.futures import wait
from pathlib import Path

from PIL import Image, ImageOps

from inference.card import ModelCard
from inference.errors import InferenceError
from inference.models import catalog
from inference.request import TILE, Operation, Request

BAR = 30


def main(arguments: list[str] | None = None) -> int:
    """Make the pictures and print their paths; return 0, 1 if the engine failed, or 2 for a bad value."""
    options = _parser().parse_args(arguments)
    try:
        requests = _requests(options)
    except InferenceError as error:
        print(f"python -m inference: {error}", file=sys.stderr)
        return 2
    try:
        _make(options.model, requests, _paths(options.out, options.n))
    except (InferenceError, OSError) as error:
        print(f"python -m inference: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m inference", description="Make a picture from a prompt.")
    parser.add_argument("prompt")
    parser.add_argument("--out", type=Path, default=Path("picture.png"), help="where to write (default: %(default)s)")
    parser.add_argument("--width", type=int, help="pixels, a multiple of 16")
    parser.add_argument("--height", type=int, help="pixels, a multiple of 16")
    parser.add_argument("--steps", type=int, help="denoising steps, 1 to 100")
    parser.add_argument("--guidance", type=float, help="guidance scale; 1 or less turns guidance off")
    parser.add_argument("--negative", default="", help="what the picture should not show")
    parser.add_argument("--seed", type=int, help="the first picture's; the next ones count up (default: random)")
    parser.add_argument("--operation", choices=list(Operation), default=Operation.GENERATE)
    parser.add_argument("--image", type=Path, action="append", default=[], help="an input picture; up to three to edit")
    parser.add_argument("--mask", type=Path, help="a picture, white where inpaint repaints")
    parser.add_argument("--strength", type=float, help="how far img2img, inpaint and redraw go back to noise, up to 1")
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
    parser.add_argument("--step-cache", type=float, default=0.0, help="change below which blocks are reused (0: off)")
    parser.add_argument("--model", help="a diffusers folder or hub name (default: KILN_MODEL, else the house model)")
    parser.add_argument("--n", type=int, default=1, help="how many pictures, in one batch if they fit")
    return parser


def _requests(options: argparse.Namespace) -> list[Request]:
    card = catalog.card(options.model)
    if options.n < 1:
        raise InferenceError("n must be at least 1")
    if options.out.suffix.lower() not in Image.registered_extensions():
        raise InferenceError(f"{options.out.name or options.out} must have a picture's extension, such as .png")
    seed = secrets.randbelow(2**31) if options.seed is None else options.seed
    repaints = (Operation.IMG2IMG, Operation.INPAINT, Operation.REDRAW)
    strength = card.default_strength if options.operation in repaints else 1.0
    images = tuple(_open(path) for path in options.image)
    width, height = _size(options, card, images)
    requests = [
        Request(
            options.prompt,
            negative_prompt=options.negative,
            width=width,
            height=height,
            steps=card.default_steps if options.steps is None else options.steps,
            guidance_scale=card.default_guidance_scale if options.guidance is None else options.guidance,
            seed=seed + index,
            operation=options.operation,
            images=images,
            mask=_open(options.mask) if options.mask else None,
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


def _size(options: argparse.Namespace, card: ModelCard, images: Sequence[Image.Image]) -> tuple[int, int]:
    """Return width and height as asked for; else those of the picture that outpaint extends, or the model's default."""
    width, height = card.default_width, card.default_height
    if options.operation == Operation.OUTPAINT and images:
        left, top, right, bottom = options.extend
        width = images[0].width // TILE * TILE + left + right
        height = images[0].height // TILE * TILE + top + bottom
    return (width if options.width is None else options.width, height if options.height is None else options.height)


def _four(text: str) -> tuple[int, int, int, int]:
    left, top, right, bottom = (int(number) for number in text.split(","))
    return left, top, right, bottom


def _adapter(text: str) -> tuple[str, float]:
    path, _, scale = text.rpartition("=")
    try:
        return path, float(scale)
    except ValueError:
        return text, 1.0


def _open(path: Path) -> Image.Image:
    try:
        with Image.open(path) as image:
            return ImageOps.exif_transpose(image)
    except (OSError, SyntaxError) as error:
        raise InferenceError(f"{path} cannot be read as a picture: {error}") from error


def _paths(out: Path, count: int) -> list[Path]:
    return [out] + [out.with_stem(f"{out.stem}-{index}") for index in range(2, count + 1)]


def _make(model: str | None, requests: list[Request], paths: list[Path]) -> None:
    # imported late: torch takes seconds, and a bad value should be refused before that
    from inference.engine import Engine

    with Engine(model) as engine:
        futures = [engine.submit(request) for request in requests]
        while wait(futures, timeout=0.1).not_done:
            _show(requests)
        _show(requests)
        sys.stderr.write("\n")
        for future, path in zip(futures, paths, strict=True):
            path.parent.mkdir(parents=True, exist_ok=True)
            future.result().image.save(path)
            print(path)


def _show(requests: list[Request]) -> None:
    done, total = sum(request.state.step_index for request in requests), sum(request.steps_due for request in requests)
    filled = BAR * done // total
    sys.stderr.write(f"\r[{'#' * filled}{'.' * (BAR - filled)}] step {done} of {total}")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
