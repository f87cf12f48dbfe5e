"""Simulates a fleet of GPUs on a virtual clock: `python -m bench.simulate [--quick] [--requests N] [--gpus N]`.

Every GPU of the fleet has the engine's own scheduler and gets its requests like a worker, from the queues. Only a
batch's forward is replaced by the seconds that it takes, from a table (`step_times`).
"""

from typing import Any


def main(quick: bool = False) -> dict[str, Any]:
    """Simulate and return the figures, JSON-ready."""
    # the simulation's own processes need no torch
    from bench.simulate import report

    return report.main(quick)
