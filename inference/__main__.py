"""The engine alone: `python -m inference "a red circle" --out x.png`. No database, no Tokens.

`--operation edit --image x.png` makes another picture of one.
"""

import argparse
import secrets
import sys
from concurrent.futures import wait
from pathlib import Path

from PIL import Image, ImageOps

from inference.errors import InferenceError
from inference.models import catalog
from inference.request import Operation, Request

BAR = 30


def main(arguments: list[str] | None = None) -> int:
    """Make the pictures and print their paths; 0 when made, 1 when the engine failed, 2 for a bad value."""
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
    parser.add_argument("--mask", type=Path, help="a picture, white where inpaint paints anew")
    parser.add_argument("--strength", type=float, help="how far img2img and inpaint go back to noise, up to 1")
    parser.add_argument(
        "--adapter",
        type=_adapter,
        action="append",
        default=[],
        metavar="FILE[=SCALE]",
        help="a LoRA's safetensors file; several add up",
    )
    parser.add_argument("--model", help="a diffusers folder or hub name (default: KILN_MODEL, else the house model)")
    parser.add_argument("--n", type=int, default=1, help="how many pictures, all in one batch where they fit")
    return parser


def _requests(options: argparse.Namespace) -> list[Request]:
    card = catalog.card(options.model)
    if options.n < 1:
        raise InferenceError("n must be at least 1")
    if options.out.suffix.lower() not in Image.registered_extensions():
        raise InferenceError(f"{options.out.name or options.out} does not end like a picture's name, such as .png")
    seed = secrets.randbelow(2**31) if options.seed is None else options.seed
    strength = card.default_strength if options.operation in (Operation.IMG2IMG, Operation.INPAINT) else 1.0
    requests = [
        Request(
            options.prompt,
            negative_prompt=options.negative,
            width=card.default_width if options.width is None else options.width,
            height=card.default_height if options.height is None else options.height,
            steps=card.default_steps if options.steps is None else options.steps,
            guidance_scale=card.default_guidance_scale if options.guidance is None else options.guidance,
            seed=seed + index,
            operation=options.operation,
            images=tuple(_open(path) for path in options.image),
            mask=_open(options.mask) if options.mask else None,
            strength=strength if options.strength is None else options.strength,
            adapters=tuple(options.adapter),
        )
        for index in range(options.n)
    ]
    for request in requests:
        catalog.validate(request, card)
    return requests


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
        raise InferenceError(f"{path} is no picture that can be read: {error}") from error


def _paths(out: Path, count: int) -> list[Path]:
    return [out] + [out.with_stem(f"{out.stem}-{index}") for index in range(2, count + 1)]


def _make(model: str | None, requests: list[Request], paths: list[Path]) -> None:
    # torch takes seconds to import: a bad value is answered before
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
    done, total = sum(request.step_index for request in requests), sum(request.steps_due for request in requests)
    filled = BAR * done // total
    sys.stderr.write(f"\r[{'#' * filled}{'.' * (BAR - filled)}] step {done} of {total}")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
