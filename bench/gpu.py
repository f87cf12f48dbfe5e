"""Measures Kiln on a GPU, in one command of eight minutes: `python -m bench.gpu [SECTION …]`.

Needs this checkout, torch, transformers, diffusers, safetensors, numpy and pillow; no server, no Django, no download.
The transformer has Qwen-Image's size and random weights (41 GB in bf16), made on the card. Sections run in order of
importance, each with its own deadline. After each, its table is printed and all results so far are written, so that a
run cut short keeps what it had. `--tiny` runs them all on the processor, with a model of two small blocks, to show that
they work; its figures mean nothing. `--page` writes the figures of a run into docs/gpu.md.
"""

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import torch

from bench.__main__ import table
from bench.gpu_sections import page
from bench.gpu_sections.agreement import agreement
from bench.gpu_sections.card import card
from bench.gpu_sections.decoding import decode
from bench.gpu_sections.forwards import compiled, eight_bits, graphs, transformer
from bench.gpu_sections.rig import FULL, TINY, Rig, Row
from bench.gpu_sections.serving import adapters, engine, mixed, step_cache

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "results" / "gpu.json"
TINY_RESULTS = ROOT / "out" / "gpu-tiny.json"
PACKAGES = ("torch", "diffusers", "transformers", "safetensors", "numpy")
# how far beyond the whole time a hanging call into the driver may go
GRACE_SECONDS = 20.0


class Section(NamedTuple):
    run: Callable[[Rig], Iterator[Row]]
    seconds: float


SECTIONS = {
    "card": Section(card, 20),
    "agreement": Section(agreement, 75),
    "transformer": Section(transformer, 130),
    "graphs": Section(graphs, 35),
    "engine": Section(engine, 60),
    "mixed": Section(mixed, 60),
    "adapters": Section(adapters, 30),
    "step_cache": Section(step_cache, 20),
    "decode": Section(decode, 25),
    "compiled": Section(compiled, 100),
    "eight_bits": Section(eight_bits, 70),
}


class OutOfTime(BaseException):
    """A section's time is up. Not an Exception, so that no code in between handles it as a failure."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the sections; return 0, or 1 if one raised (running out of time is no failure)."""
    options = parse(arguments)
    if options.page:
        page.write(json.loads(RESULTS.read_text()) if RESULTS.is_file() else None)
        return 0
    if not options.tiny and not torch.cuda.is_available():
        sys.stderr.write("python -m bench.gpu: no GPU that torch can see; --tiny runs on the processor\n")
        return 2
    device = torch.device("cpu" if options.tiny else "cuda")
    file = Path(options.out) if options.out else TINY_RESULTS if options.tiny else RESULTS
    file.parent.mkdir(parents=True, exist_ok=True)
    report: dict[str, Any] = {**circumstances(device), "tiny": options.tiny, "sections": {}}
    ends = time.monotonic() + 60 * options.minutes
    watch = threading.Timer(60 * options.minutes + GRACE_SECONDS, os._exit, (124,))
    watch.daemon = True
    watch.start()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["KILN_CALIBRATION"] = folder
        rig = Rig(device, TINY if options.tiny else FULL)
        for name in options.sections or SECTIONS:
            measure(name, rig, ends, report, file)
    watch.cancel()
    print(f"\ngoals\n{table(page.goals(report))}\n  → {file}", flush=True)
    return int(any("error" in section for section in report["sections"].values()))


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    _, _, description = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description=description)
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=f"of {', '.join(SECTIONS)}; all by default")
    parser.add_argument("--tiny", action="store_true", help="on the processor, with a model of two small blocks")
    parser.add_argument("--minutes", type=float, default=7.5, help="for all sections together (7.5)")
    parser.add_argument("--out", metavar="FILE", help="where the figures go (bench/results/gpu.json)")
    parser.add_argument("--page", action="store_true", help="write bench/results/gpu.json into docs/gpu.md, and end")
    options = parser.parse_args(arguments)
    if unknown := set(options.sections) - set(SECTIONS):
        parser.error(f"no such section: {', '.join(sorted(unknown))}")
    return options


def measure(name: str, rig: Rig, ends: float, report: dict[str, Any], file: Path) -> None:
    """Run one section while there is time, adding its rows to the report one by one."""
    section = SECTIONS[name]
    seconds = min(section.seconds, ends - time.monotonic())
    found: dict[str, Any] = {"rows": []}
    report["sections"][name] = found
    begun = time.monotonic()
    try:
        with deadline(seconds):
            for row in section.run(rig):
                found["rows"].append(row)
    except OutOfTime:
        found["cut short"] = f"after {max(0, seconds):.0f} s"
    except Exception as error:  # noqa: BLE001 - the other sections may still tell something
        found["error"] = f"{type(error).__name__}: {error}"[:500]
    found["seconds"] = round(time.monotonic() - begun, 1)
    rig.empty()
    show(name, found)
    whole = file.with_suffix(".part")
    whole.write_text(json.dumps(report, indent=2) + "\n")
    whole.replace(file)


@contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Raise OutOfTime in the main thread after so many seconds."""

    def ring(number: int, frame: object) -> None:
        raise OutOfTime

    if seconds <= 0:
        raise OutOfTime
    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def show(name: str, found: dict[str, Any]) -> None:
    ended = found.get("error") or found.get("cut short")
    print(f"\n{name} ({found['seconds']} s){f': {ended}' if ended else ''}", flush=True)
    if found["rows"]:
        print(table(found["rows"]), flush=True)


def circumstances(device: torch.device) -> dict[str, Any]:
    """Return when, where and with what the figures were measured."""
    on_gpu = device.type == "cuda"
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _said("git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"),
        "card": torch.cuda.get_device_name(device) if on_gpu else platform.processor() or platform.machine(),
        "driver": _said("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader") if on_gpu else "none",
        "cuda": torch.version.cuda if on_gpu else "none",
        "versions": {"python": platform.python_version()} | {each: _version(each) for each in PACKAGES},
    }


def _said(*command: str) -> str:
    """Return the first line that a command prints; "unknown" if it is missing or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return done.stdout.strip().partition("\n")[0] if done.returncode == 0 else "unknown"


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "unknown"


if __name__ == "__main__":
    sys.exit(main())
