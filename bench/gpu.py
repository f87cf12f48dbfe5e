"""What a GPU does with Kiln, in one command of eight minutes: `python -m bench.gpu [SECTION …]`.

Needs this checkout, torch, transformers, diffusers, safetensors, numpy and pillow; no server, no Django, no download.
The transformer has Qwen-Image's size and random weights (41 GB in bf16), made on the card. Sections run in the order
of their worth, each with a deadline of its own; after each its table is printed, and every row is written as it is
found, so that a run cut short leaves what it had. `--tiny` runs them all on the processor, with a model of two small
blocks, to show that they work; its figures mean nothing. `--page` writes the figures of a run into docs/gpu.md.
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
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import torch

import bench
from bench.__main__ import table
from bench.gpu_sections import page
from bench.gpu_sections.agreement import agreement
from bench.gpu_sections.card import card
from bench.gpu_sections.decoding import decode
from bench.gpu_sections.forwards import attention, compiled, eight_bits, graphs, kernels, transformer
from bench.gpu_sections.profiles import profiles
from bench.gpu_sections.rig import FULL, TINY, Rig, Row
from bench.gpu_sections.serving import adapters, engine, mixed, step_cache

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "results" / "gpu.json"
# of some sections alone, which must not take the place of a whole run
SOME_RESULTS = ROOT / "out" / "gpu.json"
TINY_RESULTS = ROOT / "out" / "gpu-tiny.json"
PACKAGES = ("torch", "diffusers", "transformers", "safetensors", "numpy")
# with the grace within eight, imports included
MINUTES = 7.6
# what a call into the driver that does not come back may cost beyond the whole time
GRACE_SECONDS = 20.0
# others may be using the processor: there a section has so many times its seconds
TINY_PATIENCE = 4
# an end that was lost, in a callback that lets nothing through, or that an engine is slow to follow is told again
AGAIN_SECONDS = 10.0


class Section(NamedTuple):
    run: Callable[[Rig], Iterator[Row]]
    seconds: float


SECTIONS = {
    "card": Section(card, 25),
    "agreement": Section(agreement, 85),
    "transformer": Section(transformer, 130),
    "attention": Section(attention, 20),
    "graphs": Section(graphs, 35),
    "engine": Section(engine, 70),
    "mixed": Section(mixed, 65),
    "adapters": Section(adapters, 30),
    "step_cache": Section(step_cache, 20),
    "decode": Section(decode, 25),
    "profiles": Section(profiles, 25),
    "compiled": Section(compiled, 100),
    "eight_bits": Section(eight_bits, 80),
    "kernels": Section(kernels, 20),
}


class OutOfTime(BaseException):
    """A section's time is up. Not an Exception, so that nothing on the way takes it for a failure of its own."""


def main(arguments: Sequence[str] | None = None, begun: float | None = None) -> int:
    """0 where every section ran or ran out of time; 1 where one raised. The time counts from `begun`, or from now."""
    options = parse(arguments)
    if options.page:
        return show_page(Path(options.out) if options.out else None)
    if not options.tiny and not torch.cuda.is_available():
        return refuse("no GPU that torch can see; --tiny runs on the processor")
    device = torch.device("cpu" if options.tiny else "cuda")
    file = results(options)
    report: dict[str, Any] = {**circumstances(device), "tiny": options.tiny, "sections": {}}
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        keep(report, file)
    except OSError as error:
        return refuse(f"cannot write {file}: {error.strerror}")
    ends = (begun or time.monotonic()) + 60 * options.minutes
    watch = threading.Timer(max(0, ends - time.monotonic()) + GRACE_SECONDS, os._exit, (124,))
    watch.daemon = True
    watch.start()
    try:
        run(options.sections or SECTIONS, Rig(device, TINY if options.tiny else FULL), ends, report, file)
    except KeyboardInterrupt:
        return 130
    finally:
        watch.cancel()
        print(f"\ngoals\n{table(page.goals(report))}\n  → {file}", flush=True)
    return int(any("error" in section for section in report["sections"].values()))


def refuse(why: str) -> int:
    sys.stderr.write(f"python -m bench.gpu: {why}\n")
    return 2


def results(options: argparse.Namespace) -> Path:
    """Where the figures go."""
    if options.out:
        return Path(options.out)
    return TINY_RESULTS if options.tiny else SOME_RESULTS if options.sections else RESULTS


def show_page(file: Path | None) -> int:
    """Write a run's figures into docs/gpu.md; none are there before the first run."""
    try:
        report = json.loads((file or RESULTS).read_text()) if file or RESULTS.is_file() else None
        if report and report["tiny"]:
            return refuse("the figures of --tiny mean nothing")
        page.write(report)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return refuse(f"no figures of a run in {file or RESULTS}: {error!r}")
    return 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    _, _, description = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description=description)
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=f"of {', '.join(SECTIONS)}; all by default")
    parser.add_argument("--tiny", action="store_true", help="on the processor, with a model of two small blocks")
    parser.add_argument("--minutes", type=minutes, default=MINUTES, help=f"for all sections together ({MINUTES})")
    parser.add_argument(
        "--out", metavar="FILE", help="where the figures go (bench/results/gpu.json; of some sections: out/gpu.json)"
    )
    parser.add_argument("--page", action="store_true", help="write the figures of FILE into docs/gpu.md, and end")
    options = parser.parse_args(arguments)
    if unknown := set(options.sections) - set(SECTIONS):
        parser.error(f"no such section: {', '.join(sorted(unknown))}")
    options.sections = list(dict.fromkeys(options.sections))
    return options


def minutes(text: str) -> float:
    """Raises ValueError where it is no time that could be waited for."""
    number = float(text)
    if not 0 < number <= 24 * 60:
        raise ValueError(text)
    return number


def run(names: Iterable[str], rig: Rig, ends: float, report: dict[str, Any], file: Path) -> None:
    """Run sections in a place where nothing lies that an earlier run has calibrated or compiled."""
    # a process of the compiler may still write when all is over
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        fresh = {"KILN_CALIBRATION": folder, "TORCHINDUCTOR_CACHE_DIR": f"{folder}/inductor"}
        with mock.patch.dict(os.environ, fresh):
            for name in names:
                measure(name, rig, ends, report, file)


def measure(name: str, rig: Rig, ends: float, report: dict[str, Any], file: Path) -> None:
    """Run one section as far as there is time; its rows go into the report one by one."""
    section = SECTIONS[name]
    left = max(0.0, ends - time.monotonic())
    seconds = min(section.seconds if rig.on_gpu else TINY_PATIENCE * section.seconds, left)
    found: dict[str, Any] = {"rows": [], "cut short": "the run ended"}
    report["sections"][name] = found
    begun = time.monotonic()
    try:
        with deadline(seconds):
            rig.empty()
            for row in section.run(rig):
                found["rows"].append(row)
                keep(report, file)
        del found["cut short"]
    except OutOfTime:
        found["cut short"] = f"after {seconds:.0f} s"
    except Exception as error:  # noqa: BLE001 - the other sections may still tell something
        traceback.print_exc()
        del found["cut short"]
        found["error"] = " ".join(f"{type(error).__name__}: {error}".split())[:500]
    finally:
        found["seconds"] = round(time.monotonic() - begun, 1)
        show(name, found)
        keep(report, file)


def keep(report: dict[str, Any], file: Path) -> None:
    """Write what was found so far, all of it or nothing. Raises OSError where it cannot be written."""
    whole = file.with_name(f"{file.name}.{os.getpid()}")
    try:
        whole.write_text(json.dumps(report, indent=2) + "\n")
        whole.replace(file)
    finally:
        whole.unlink(missing_ok=True)


@contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Raise OutOfTime in the main thread after so many seconds, and again as long as it goes on."""

    def ring(number: int, frame: object) -> None:
        raise OutOfTime

    if not seconds:
        raise OutOfTime
    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds, AGAIN_SECONDS)
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
    """When, where and with what the figures were measured."""
    on_gpu = device.type == "cuda"
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _said("git", "-C", str(ROOT), "describe", "--always", "--dirty"),
        "card": torch.cuda.get_device_name(device) if on_gpu else platform.processor() or platform.machine(),
        "driver": _said("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader") if on_gpu else "none",
        "cuda": torch.version.cuda if on_gpu else "none",
        "versions": {"python": platform.python_version()} | {each: _version(each) for each in PACKAGES},
    }


def _said(*command: str) -> str:
    """The first line that a command prints; "unknown" where it is not there or fails."""
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
    sys.exit(main(begun=bench.BEGUN))
