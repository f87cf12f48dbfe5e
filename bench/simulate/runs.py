"""The runs of a report, each for a process of its own. Loads no torch.

Loads are shares of what the GPUs could do one picture at a time.
"""

import time
from collections.abc import Callable
from math import ceil
from typing import Any

import numpy as np

from bench.simulate import scaling, traces
from bench.simulate.fleet import Fleet, Outcome
from bench.simulate.step_times import H200, StepTimes
from bench.simulate.traces import CLASSES, HOUR, Mix, Trace

SEED = 1
FLEET_LOAD, HIGH_LOAD = 0.9, 1.3
SOME_GPUS = 50
START_UP = 180.0
KEPT = 30.0
DAYS: dict[str, traces.Rate] = {"a usual day": traces.diurnal, "a day with bursts": traces.bursts}

Figures = dict[str, Any]


def at_load(count: int, gpus: int, load: float, times: StepTimes, mix: Mix) -> Trace:
    """Draw requests at a constant rate, this share of what the GPUs could do one picture at a time."""
    work = traces.draw(count, 1.0, traces.poisson, mix, SEED).work(times)
    return traces.draw(count, work / (gpus * load), traces.poisson, mix, SEED)


def fleet(count: int, price: float, gpus: int) -> Figures:
    begun = time.perf_counter()
    trace = at_load(count, gpus, FLEET_LOAD, H200, Mix())
    outcome = Fleet(trace, H200, scaling.Fixed(gpus)).run()
    seconds = time.perf_counter() - begun
    return {
        "GPUs": gpus,
        "requests": count,
        **summary(trace, outcome, price),
        "simulated hours": round(outcome.ended / HOUR, 2),
        "took, minutes": round(seconds / 60, 1),
        "batches a second": round(outcome.batches / seconds),
    }


def load(count: int, price: float, share: float, batch_mates: bool) -> Figures:
    trace = at_load(count, SOME_GPUS, share, H200, Mix())
    return summary(trace, Fleet(trace, H200, scaling.Fixed(SOME_GPUS), affinity=batch_mates).run(), price)


def cache(count: int, price: float, found: float, saved: float) -> Figures:
    mix = Mix(cached=found, saved=saved)
    seconds = at_load(count, SOME_GPUS, HIGH_LOAD, H200, Mix()).arrivals[-1]
    trace = traces.draw(count, float(seconds), traces.poisson, mix, SEED)
    return summary(trace, Fleet(trace, H200, scaling.Fixed(SOME_GPUS)).run(), price)


def day(count: int, price: float, kind: str, rule: str) -> Figures:
    trace = traces.draw(count, 24 * HOUR, DAYS[kind], Mix(), SEED)
    # what a usual day needs on average, one picture at a time; the bursts are unforeseen
    usual = traces.draw(count, 24 * HOUR, traces.diurnal, Mix(), SEED).work(H200) / (24 * HOUR)
    outcome = Fleet(trace, H200, RULES[rule](usual), start_up=START_UP).run()
    figures = summary(trace, outcome, price)
    kept = figures["interactive p99 s"] <= KEPT
    history = outcome.history[:: max(1, len(outcome.history) // 288)]
    return {
        **figures,
        "most GPUs": max(moment.machines for moment in outcome.history),
        f"p99 of {KEPT:.0f} s kept": kept,
        "history": [[round(moment.at), moment.machines, round(moment.busy, 3), moment.waiting] for moment in history],
    }


def plan(usual: float) -> Callable[[float], float]:
    """Return the machines at a time of a usual day, at three quarters of what they could do one picture at a time."""
    return lambda now: usual / 0.75 * float(traces.diurnal(np.array([now]))[0])


RULES: dict[str, Callable[[float], scaling.Rule]] = {
    "fixed, for the peak": lambda usual: scaling.Fixed(ceil(1.8 * usual / 0.75)),
    "fixed, for the mean": lambda usual: scaling.Fixed(ceil(usual / 0.75)),
    "busy 70 %": lambda usual: scaling.Utilisation(ceil(usual / 3)),
    "places 15 %": lambda usual: scaling.Slots(ceil(usual / 3)),
    "wait over 5 s": lambda usual: scaling.QueueWait(ceil(usual / 3)),
    "by plan": lambda usual: scaling.Scheduled(plan(usual), START_UP),
    "by plan, or places 15 %": lambda usual: scaling.Most(
        (scaling.Scheduled(plan(usual), START_UP), scaling.Slots(ceil(usual / 3)))
    ),
}


def summary(trace: Trace, outcome: Outcome, price: float) -> Figures:
    """Return one row of a table; latency is from arrival to picture."""
    latencies = outcome.finished - trace.arrivals
    by_class = {name: latencies[trace.classes == index] for index, name in enumerate(CLASSES)}
    hours = outcome.paid / HOUR
    return {
        "utilisation": round(outcome.busy / outcome.paid, 3),
        "rows a forward": round(outcome.rows / outcome.steps, 2),
        **{
            f"{name} p{share} s": round(float(np.percentile(times, share)), 2)
            for name, times in by_class.items()
            for share in (50, 99)
        },
        "GPU-hours": round(hours, 1),
        "$ a picture": round(hours * price / len(trace), 5),
    }
