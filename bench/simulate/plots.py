"""Draws docs/images/capacity-*.png: `python -m bench.simulate.plots`, from bench/results/simulate.json."""

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]

Figures = dict[str, Any]


def draw(figures: Figures, folder: Path) -> None:
    """Write the three plots; needs matplotlib."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    for name, plot in (("load", by_load), ("rules", by_rule), ("day", day)):
        figure, axes = pyplot.subplots(figsize=(8, 4.5), layout="constrained")
        plot(axes, figures)
        figure.savefig(folder / f"capacity-{name}.png", dpi=110)
        pyplot.close(figure)


def by_load(axes: Any, figures: Figures) -> None:
    for (name, runs), colour in zip(figures["by load"].items(), ("tab:blue", "tab:orange"), strict=True):
        loads = [float(load.rstrip("%")) for load in runs]
        for percentile, style in (("p50", "--"), ("p99", "-")):
            times = [run[f"interactive {percentile} s"] for run in runs.values()]
            axes.plot(loads, times, style, marker="o", color=colour, label=f"{name}, {percentile}")
    axes.set(
        title="Interactive pictures' latency by load",
        xlabel="load, % of what the GPUs could do one picture at a time",
        ylabel="seconds from arrival to picture",
        yscale="log",
    )
    axes.legend()
    axes.grid(alpha=0.3)


def by_rule(axes: Any, figures: Figures) -> None:
    for (name, runs), marker in zip(figures["rules"].items(), ("o", "^"), strict=True):
        for number, (rule, run) in enumerate(runs.items()):
            label = rule if marker == "o" else None
            place = (1000 * run["$ a picture"], run["interactive p99 s"])
            axes.scatter(*place, marker=marker, color=f"C{number}", s=60, label=label)
        axes.scatter([], [], marker=marker, color="grey", label=name)
    axes.set(
        title="Autoscaling rules: what a picture costs and how long it takes",
        xlabel="$ per 1,000 pictures",
        ylabel="interactive p99, seconds",
        yscale="log",
    )
    axes.axhline(30, color="grey", linestyle=":")
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)


def day(axes: Any, figures: Figures) -> None:
    for rule, run in figures["rules"]["a day with bursts"].items():
        hours, machines = zip(*((at / 3600, count) for at, count, *_ in run["history"] if at <= 24 * 3600), strict=True)
        axes.plot(hours, machines, label=rule, linewidth=1.2)
    axes.set(title="GPUs that serve, by rule, on a day with bursts", xlabel="hour", ylabel="GPUs", xlim=(0, 24))
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)


if __name__ == "__main__":
    draw(json.loads((ROOT / "bench" / "results" / "simulate.json").read_text())["figures"], ROOT / "docs" / "images")
