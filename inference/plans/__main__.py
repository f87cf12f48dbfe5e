"""Builds, lists and checks plans, the transformer compiled ahead of its use: `python -m inference.plans build`."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from inference.errors import InferenceError, PlanUnavailable
from inference.models import catalog
from inference.plans import plan, profiles

EXAMPLES = """examples:
  python -m inference.plans build                                  for ONNX Runtime, which runs on a processor
  python -m inference.plans build --library tensorrt               for the GPU at hand
  python -m inference.plans build --library tensorrt_rtx --gpu 8.9 12.0
  python -m inference.plans list
  KILN_BACKEND=onnx python -m inference "a red circle" --out circle.png
"""


def main(arguments: list[str] | None = None) -> int:
    """Do what is asked; return 0, 1 if it failed, or for `check` 1 if a plan is not what it was."""
    options = _parser().parse_args(arguments)
    command: Callable[[argparse.Namespace], int] = options.run
    try:
        return command(options)
    except InferenceError as error:
        sys.stderr.write(f"python -m inference.plans: {error}\n")
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m inference.plans",
        description=(__doc__ or "").split(":")[0] + ".",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="build|list|check")
    build = commands.add_parser("build", help="build a plan; a former one stays until the new one is whole")
    build.set_defaults(run=_build)
    build.add_argument("--model", help="a diffusers folder or hub name (default: KILN_MODEL, else the house model)")
    build.add_argument("--library", choices=plan.LIBRARIES, default=plan.LIBRARIES[0], help="(default: onnxruntime)")
    build.add_argument("--precision", choices=plan.PRECISIONS, help="(default: fp32 for onnxruntime, else bf16)")
    build.add_argument(
        "--profiles",
        type=Path,
        default=profiles.TABLE,
        metavar="FILE",
        help=f"sizes to build for, as in {profiles.TABLE.name}",
    )
    build.add_argument(
        "--gpu", nargs="+", default=[], metavar="8.9", help="compute capabilities (default: the GPU at hand)"
    )
    show = commands.add_parser("list", help="list all plans, and what they are for")
    show.set_defaults(run=_list)
    check = commands.add_parser("check", help="read every byte of all plans, and say what is not as it was built")
    check.set_defaults(run=_check)
    for each in (build, show, check):
        each.add_argument(
            "--plans", type=Path, default=_default(), metavar="DIR", help=f"(default: KILN_PLANS, else {plan.ROOT})"
        )
    return parser


def _default() -> Path:
    return Path(os.environ.get("KILN_PLANS") or plan.ROOT)


def _build(options: argparse.Namespace) -> int:
    from inference.plans import building  # loads torch, which the others do not need

    began = time.monotonic()

    def tell(what: str) -> None:
        sys.stderr.write(f"{time.monotonic() - began:6.0f} s  {what}\n")

    precision = options.precision or ("fp32" if options.library == plan.LIBRARIES[0] else "bf16")
    wanted = building.Wanted(options.library, precision, profiles.read(options.profiles), tuple(options.gpu))
    made = building.build(catalog.card(options.model), options.plans.expanduser(), wanted, tell)
    sys.stdout.write(f"{made.folder}\n")
    return 0


def _list(options: argparse.Namespace) -> int:
    folders = plan.everything(options.plans.expanduser())
    if not folders:
        sys.stdout.write(f"no plans in {options.plans.expanduser()}\n")
    for folder in folders:
        said = plan.about(folder)
        size = sum(path.stat().st_size for path in folder.iterdir()) / 1e6
        gpus = f", GPUs {' '.join(said.gpus)}" if said.gpus else ""
        sizes = " ".join(profile.name for profile in said.profiles)
        sys.stdout.write(
            f"{said.model} {said.revision}  {said.precision}  {said.library} {said.version}{gpus}"
            f"  {size:.0f} MB  profiles {sizes}\n"
        )
    return 0


def _check(options: argparse.Namespace) -> int:
    failed = 0
    for folder in plan.everything(options.plans.expanduser()):
        try:
            plan.read(folder)
        except PlanUnavailable as error:
            failed = 1
            sys.stdout.write(f"broken  {error}\n")
        else:
            sys.stdout.write(f"whole   {folder}\n")
    return failed


if __name__ == "__main__":
    sys.exit(main())
