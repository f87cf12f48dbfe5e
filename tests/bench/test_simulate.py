"""A simulated fleet loses no request, invents no time, and gives the same result for the same seed."""

import numpy as np
import pytest

from bench.simulate import runs, scaling, traces
from bench.simulate.fleet import Fleet, Outcome
from bench.simulate.step_times import H200, StepTimes
from bench.simulate.traces import Mix, Trace
from inference.request import Phase, Request
from inference.scheduling.scheduler import Batch

RULES = {
    "fixed": lambda: scaling.Fixed(4),
    "utilisation": lambda: scaling.Utilisation(2),
    "places": lambda: scaling.Slots(2),
    "wait": lambda: scaling.QueueWait(2),
    "plan": lambda: scaling.Scheduled(lambda now: 2 + now / 60, 30),
}


class Watched(StepTimes):
    """Step times that add up their answers."""

    def __init__(self) -> None:
        super().__init__(H200.device, H200.max_batch_tokens, H200.curves, H200.encode, H200.decode)
        self.total, self.steps = 0.0, 0

    def seconds(self, batch: Batch) -> float:
        seconds = super().seconds(batch)
        self.total += seconds
        self.steps += len(batch.requests) if batch.phase is Phase.DENOISE else 0
        return seconds


def trace(count: int = 300, seed: int = 3, **mix) -> Trace:
    return traces.draw(count, 300.0, traces.poisson, Mix(**mix), seed)


def run(rule: str = "fixed", affinity: bool = False, **mix) -> tuple[Trace, Watched, Outcome]:
    drawn, times = trace(**mix), Watched()
    return drawn, times, Fleet(drawn, times, RULES[rule](), start_up=30, affinity=affinity).run()


@pytest.mark.parametrize("affinity", [False, True])
@pytest.mark.parametrize("rule", RULES)
def test_every_request_finishes_and_the_fleets_time_is_the_sum_of_its_batches(rule, affinity):
    drawn, times, outcome = run(rule, affinity, cached=0.3, saved=0.4)
    assert np.isfinite(outcome.finished).all()
    alone = drawn.steps * np.vectorize(H200.step)((drawn.sides // 16) ** 2, 1024)
    assert (outcome.finished - drawn.arrivals >= 0.5 * alone).all(), "no picture is faster than its steps"
    assert outcome.busy == pytest.approx(times.total)
    assert times.steps == (drawn.steps - drawn.skipped).sum() == outcome.rows
    assert outcome.busy <= outcome.paid


def test_the_same_seed_gives_the_same_figures():
    one, other = (run("places", True)[2] for _ in range(2))
    assert np.array_equal(one.finished, other.finished)
    assert (one.busy, one.paid) == (other.busy, other.paid)


def test_one_gpu_that_is_never_idle_takes_as_long_as_its_batches():
    drawn = trace(30)
    drawn.arrivals[:] = 0.0
    outcome = Fleet(drawn, H200, scaling.Fixed(1), fewest=1).run()
    assert outcome.finished.max() == pytest.approx(outcome.busy)
    assert outcome.busy < drawn.work(H200), "batches save time"


def test_a_cache_that_saves_steps_saves_time():
    plain, cached = run()[2], run(cached=0.5, saved=0.4)[2]
    assert cached.busy < 0.9 * plain.busy


def test_interactive_pictures_come_first_where_there_are_too_few_gpus():
    drawn, _, outcome = run()
    waits = outcome.finished - drawn.arrivals
    assert np.median(waits[drawn.classes == 0]) < np.median(waits[drawn.classes == 2])


def test_more_machines_come_after_their_start_up_and_go_when_nobody_needs_them():
    drawn = traces.draw(300, 300.0, traces.poisson, Mix(), 3)
    drawn.arrivals[-1] = 2000.0
    history = Fleet(drawn, H200, RULES["places"](), start_up=100).run().history
    assert [moment.machines for moment in history if moment.at < 100] == [2] * 6
    assert max(moment.machines for moment in history) > 4
    assert history[-1].machines == 2


@pytest.mark.parametrize(
    ("side", "rows", "seconds"),
    [(512, 1, 0.167), (512, 4, 0.240), (512, 8, 0.425), (1024, 1, 0.243), (1024, 2, 0.474), (1024, 3, 0.711)],
)
def test_the_published_step_times_are_met(side, rows, seconds):
    requests = [Request("", width=side, height=side, steps=1, guidance_scale=4.0, seed=row) for row in range(rows)]
    assert H200.seconds(Batch(Phase.DENOISE, tuple(requests))) == pytest.approx(seconds)


def test_a_days_requests_come_when_they_should():
    drawn = traces.draw(20_000, 24 * traces.HOUR, traces.diurnal, Mix(), 1)
    by_hour = np.histogram(drawn.arrivals, 24, (0, 24 * traces.HOUR))[0]
    assert len(drawn) == by_hour.sum() == 20_000
    assert by_hour[11:13].mean() > 7 * by_hour[[0, 23]].mean()


def test_a_summary_counts_what_was_paid():
    drawn, _, outcome = run()
    figures = runs.summary(drawn, outcome, price=3.6)
    assert figures["$ a picture"] == pytest.approx(outcome.paid / 1000 / len(drawn), abs=1e-5)
    assert figures["utilisation"] == pytest.approx(outcome.busy / outcome.paid, abs=1e-3)
