"""The figures of a run as shown in docs/gpu.md: goals beside results, then every section."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from bench.__main__ import written
from bench.gpu_sections.rig import FULL, TINY, Row, Scale

PAGE = Path(__file__).resolve().parent.parent.parent / "docs" / "gpu.md"
BEGIN, END = "<!-- figures: python -m bench.gpu --page -->", "<!-- end of the figures -->"
UNKNOWN = "not measured yet"
SECTIONS = {
    "card": "The card",
    "agreement": "Numbers that must agree, of 255",
    "transformer": "The transformer",
    "attention": "Attention",
    "graphs": "CUDA graphs",
    "engine": "The engine",
    "mixed": "A mixed load",
    "adapters": "Adapters by row",
    "step_cache": "The step cache",
    "decode": "The autoencoder",
    "profiles": "Forms of weights, two blocks",
    "compiled": "Compiled blocks",
    "eight_bits": "8 bits",
    "kernels": "Kernels of attention",
}

Report = dict[str, Any]


class Goal(NamedTuple):
    """A goal, and how to read its result from a report's sections (KeyError if it is missing)."""

    name: str
    wanted: str
    sections: tuple[str, ...]
    found: Callable[[Report, Scale], float]


def _row(report: Report, section: str, label: str) -> Row:
    return next((row for row in report["sections"][section]["rows"] if row[""] == label), {})


def _figures(report: Report, section: str, name: str, label: str = "") -> list[float]:
    rows = report["sections"][section]["rows"]
    found = [row[name] for row in rows if name in row and row[""].startswith(label)]
    if not found:
        raise KeyError(name)
    return found


def _throughput(report: Report, scale: Scale) -> float:
    rows = [_row(report, "transformer", f"{scale.small}² · batch {batch}") for batch in (scale.batches[-1], 1)]
    return float(rows[0]["pictures' steps/s"] / rows[1]["pictures' steps/s"])


def _best_small(report: Report, scale: Scale) -> float:
    label, sections = f"{scale.small}² · batch 1", report["sections"]
    found = [_row(report, name, label).get("× eager", 0.0) for name in ("graphs", "compiled") if name in sections]
    if not any(found):
        raise KeyError("× eager")
    return max(found)


GOALS = (
    Goal(
        "1024², batch 1: share of the matrix peak",
        "≥ 0.70",
        ("transformer",),
        lambda report, scale: _row(report, "transformer", f"{scale.large}² · batch 1")["of the peak"],
    ),
    Goal("512²: throughput at batch 8, of batch 1", "≥ 3", ("transformer",), _throughput),
    Goal(
        "engine: of the raw forward, at worst",
        "≥ 0.97",
        ("engine",),
        lambda report, _: min(_figures(report, "engine", "of raw")),
    ),
    Goal(
        "adapters by row, rank 16: time of a forward, of one without, at worst",
        "≤ 1.05",
        ("adapters",),
        lambda report, _: max(_figures(report, "adapters", "× without", "rank 16")),
    ),
    Goal("512², batch 1: graph or compiled blocks, × eager", "≥ 1.3", ("graphs", "compiled"), _best_small),
    Goal(
        "8 bits, × 16 bits, at best",
        "≥ 1.4",
        ("eight_bits",),
        lambda report, _: max(_figures(report, "eight_bits", "× 16 bits")),
    ),
    Goal(
        "random jobs that failed",
        "0",
        ("agreement",),
        lambda report, _: sum(_figures(report, "agreement", "failed")),
    ),
)


def goals(report: Report) -> list[Row]:
    """Return one row for each goal."""
    scale = TINY if report.get("tiny") else FULL
    return [{"": goal.name, "goal": goal.wanted, "found": _found(goal, report, scale)} for goal in GOALS]


def _found(goal: Goal, report: Report, scale: Scale) -> str:
    try:
        found = written(float(goal.found(report, scale)))
    except KeyError:
        return UNKNOWN
    ran = [report["sections"].get(name, {}) for name in goal.sections]
    return f"{found} so far" if any(_ended(section) for section in ran) else found


def write(report: Report | None, page: Path = PAGE) -> None:
    """Write a run's figures, or that there are none yet, between the page's two marks."""
    text = page.read_text()
    before, _, rest = text.partition(BEGIN)
    page.write_text(f"{before}{BEGIN}\n\n{figures(report or {'sections': {}})}\n{END}{rest.partition(END)[2]}")


def figures(report: Report) -> str:
    """Return Markdown: where it was measured, the goals, and one table for each section."""
    lines = [_where(report), "", markdown(goals(report)), ""]
    for name, title in SECTIONS.items():
        found = report["sections"].get(name)
        lines += [f"### {title}", "", _section(found) if found else f"{UNKNOWN.capitalize()}.", ""]
    return "\n".join(lines)


def _where(report: Report) -> str:
    if "card" not in report:
        return "No GPU has run this yet; every row waits for one."
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    return (
        f"{report['card']}, driver {report['driver']}, CUDA {report['cuda']}; {versions}; {report['date']}, "
        f"commit {report['commit']}."
    )


def _section(found: dict[str, Any]) -> str:
    ended = _ended(found)
    said = f"Ended early: {ended}.\n\n" if ended else ""
    return said + (markdown(found["rows"]) if found["rows"] else UNKNOWN.capitalize() + ".")


def _ended(section: dict[str, Any]) -> str | None:
    """Why a section ended before its last row, where it did."""
    return section.get("error") or section.get("cut short")


def markdown(rows: list[Row]) -> str:
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = [names, ["---", *["--:"] * (len(names) - 1)]]
    lines += [[written(row.get(name, "")).replace("|", "\\|") for name in names] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
