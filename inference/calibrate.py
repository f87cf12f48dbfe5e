"""Prints the step times of this device by image tokens, and the cap: `python -m inference.calibrate [--again]`."""

import argparse
import sys

from inference.engine import Engine
from inference.errors import InferenceError


def main(arguments: list[str] | None = None) -> int:
    """Print the table; return 0, or 1 if the model could not be loaded."""
    parser = argparse.ArgumentParser(prog="python -m inference.calibrate", description=(__doc__ or "").split(":")[0])
    parser.add_argument("--model", help="a diffusers folder or hub name (default: KILN_MODEL, else the house model)")
    parser.add_argument("--device", help="cpu, cuda or cuda:1 (default: cuda if there is one)")
    parser.add_argument("--again", action="store_true", help="measure again, even if there is a stored table")
    options = parser.parse_args(arguments)
    try:
        with Engine(options.model, device=options.device, calibrate_again=options.again) as engine:
            times, cap = engine.step_times, engine.max_batch_tokens
    except InferenceError as error:
        sys.stderr.write(f"python -m inference.calibrate: {error}\n")
        return 1
    lines = ["image tokens  ms a step  tokens a second"]
    for tokens, seconds in zip(times.tokens, times.seconds, strict=True):
        lines.append(f"{tokens:12}{1000 * seconds:11.1f}{tokens / seconds:17.0f}")
    floor = " (one picture of the usual size)" if cap > times.knee() else ""
    sys.stdout.write("\n".join([*lines, f"max_batch_tokens {cap}{floor}, knee {times.knee()}", ""]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
