"""What the engine promises its callers: sharing batches, leaving, failing alone, stopping."""

import contextlib
import threading
import time

import pytest
import torch

from devstack.processes import wait_until
from inference.engine import Engine
from inference.errors import BrokenPicture, Canceled, EngineFault, EngineStopped, InvalidRequest
from inference.request import Phase
from tests.inference.conftest import difference, order


def test_requests_with_different_steps_share_batches(engine, watch):
    long, short = order(steps=7), order(steps=3, seed=8, guidance_scale=2.0)
    watch.at(1, lambda: engine.submit(short))
    assert engine.submit(long).result().steps_run == 7
    assert short.ticket.future.result().steps_run == 3
    assert watch.rows("denoise") == [2] * 3 + [1] * 4
    tokens = [report.image_tokens for report in watch.reports if report.phase == "denoise"]
    assert tokens[0] == 2 * tokens[-1] == 2 * long.image_tokens == 256
    assert all(report.seconds > 0 for report in watch.reports)


def test_requests_of_other_sizes_or_without_guidance_do_not_share(engine, watch):
    others = [order(width=80), order(guidance_scale=1.0)]
    watch.at(1, lambda: [engine.submit(other) for other in others])
    engine.submit(order()).result()
    for other in others:
        other.ticket.future.result()
    assert watch.rows("denoise") == [1] * 12


def test_progress_can_be_read_from_another_thread(engine, watch):
    request, seen = order(), []
    for boundary in range(1, 6):
        watch.at(boundary, lambda: seen.append(request.state.step_index))
    engine.submit(request).result()
    assert seen == [0, 1, 2, 3, 4]


def test_a_running_request_is_canceled_at_the_next_step(engine, watch):
    request, batch_mate = order(steps=50), order(steps=5, seed=1)
    watch.at(1, lambda: engine.submit(batch_mate))
    # both are encoded, then three steps
    watch.at(5, lambda: engine.cancel(request))
    with pytest.raises(Canceled) as canceled:
        engine.submit(request).result()
    assert canceled.value.steps_run == 3
    assert batch_mate.ticket.future.result().steps_run == 5
    assert request.state.step_index == 3


def test_a_waiting_request_is_canceled_without_a_step(engine, watch):
    first, waiting = order(), order(width=96)
    watch.at(1, lambda: (engine.submit(waiting), engine.cancel(waiting)))
    assert engine.submit(first).result().steps_run == 4
    with pytest.raises(Canceled) as canceled:
        waiting.ticket.future.result()
    assert canceled.value.steps_run == 0
    assert watch.rows("denoise") == [1] * 4, "the canceled request never had a step"


def test_a_request_that_has_all_its_steps_is_finished_although_it_is_canceled(engine, monkeypatch):
    request, run = order(steps=3), engine._runner.run

    def canceled_before_it_is_decoded(batch):
        if batch.phase is Phase.DECODE:
            engine.cancel(request)
            assert wait_until(lambda: not engine._leaving, 20), "the other thread has dealt with the cancel"
            time.sleep(0.1)
        run(batch)

    monkeypatch.setattr(engine._runner, "run", canceled_before_it_is_decoded)
    assert engine.submit(request).result(60).steps_run == 3


def test_canceling_a_finished_request_changes_nothing(engine):
    request = order()
    picture = engine.submit(request).result()
    engine.cancel(request)
    assert engine.submit(order()).result().steps_run == 4
    assert request.ticket.future.result() is picture


def test_a_request_with_broken_numbers_fails_alone(engine, watch):
    alone = engine.submit(order()).result()
    watch.reset()
    victim, batch_mate = order(seed=1), order()

    def break_it():
        victim.state.latents = torch.full_like(victim.state.latents, float("nan"))

    watch.at(1, lambda: engine.submit(batch_mate))
    watch.at(3, break_it)
    with pytest.raises(BrokenPicture):
        engine.submit(victim).result()
    assert difference(batch_mate.ticket.future.result(), alone) <= 1


def test_a_request_that_raises_fails_alone_and_the_engine_lives_on(engine, watch):
    victim, batch_mate = order(seed=1), order(seed=2)

    def break_it():
        victim.state.text = torch.zeros(3, 5)

    watch.at(1, lambda: engine.submit(batch_mate))
    watch.at(3, break_it)
    with pytest.raises(EngineFault) as fault:
        engine.submit(victim).result()
    assert isinstance(fault.value.__cause__, RuntimeError)
    assert batch_mate.ticket.future.result().steps_run == 4
    assert engine.warm
    assert engine.submit(order(seed=3)).result().steps_run == 4


def test_a_report_that_raises_does_not_stop_the_engine(engine, watch):
    watch.at(2, lambda: 1 / 0)
    assert engine.submit(order()).result().steps_run == 4


@pytest.mark.parametrize(
    ("param", "value"),
    [
        ("width", 100),
        ("width", 0),
        ("width", 16),
        ("height", 4096),
        ("height", -64),
        ("width", 64.0),
        ("steps", 0),
        ("steps", 101),
        ("steps", True),
        ("guidance_scale", -1.0),
        ("guidance_scale", float("nan")),
        ("guidance_scale", float("inf")),
        ("seed", -1),
        ("seed", 2**63),
        ("prompt", "x" * 4001),
        ("prompt", "half a pair \ud83d"),
        ("negative_prompt", "x" * 4001),
        ("service_class", "royal"),
    ],
)
def test_an_invalid_value_is_refused_at_once_and_named(engine, watch, param, value):
    request = order(**{param: value})
    with pytest.raises(InvalidRequest) as refusal:
        engine.submit(request)
    assert refusal.value.param == param
    assert param in str(refusal.value)
    assert not request.ticket.future.running()
    assert watch.reports == []


def test_the_smallest_and_longest_requests_are_made(engine):
    assert engine.submit(order(steps=1)).result().steps_run == 1
    assert engine.submit(order(steps=100)).result().steps_run == 100
    assert engine.submit(order(prompt="赤い円 " * 1000, steps=2)).result().steps_run == 2
    assert engine.submit(order(prompt="", steps=2)).result().steps_run == 2


def test_a_future_canceled_before_its_request_is_submitted_is_not_worked_on(engine, watch):
    request = order()
    assert request.ticket.future.cancel()
    assert engine.submit(request).cancelled()
    assert engine.submit(order(seed=1)).result().steps_run == 4
    assert watch.rows("encode") == [1]


def test_a_request_that_arrives_while_the_engine_stops_is_not_forgotten():
    for _ in range(3):
        engine, outcomes = Engine(device="cpu"), []

        def keep_submitting(engine=engine, outcomes=outcomes):
            with contextlib.suppress(EngineStopped):
                while True:
                    outcomes.append(engine.submit(order(steps=1)))

        with engine:
            thread = threading.Thread(target=keep_submitting)
            thread.start()
            while not outcomes:
                pass
        thread.join(10)
        assert not thread.is_alive()
        for future in outcomes:
            assert future.exception(timeout=10) is None or isinstance(future.exception(), EngineStopped)


def test_a_loop_that_breaks_fails_what_is_pending_and_takes_no_more(monkeypatch):
    engine = Engine(device="cpu")

    def breaks(batch):
        raise RuntimeError("broken")

    with engine:
        monkeypatch.setattr(engine, "_finish", breaks)
        with pytest.raises(EngineFault):
            engine.submit(order()).result(timeout=10)
        with pytest.raises(EngineStopped):
            engine.submit(order())
        assert not engine.warm


def test_stopping_fails_what_is_pending():
    begun = threading.Event()
    engine = Engine(device="cpu", on_batch=lambda report: begun.set() if report.phase == "denoise" else None)
    with pytest.raises(EngineStopped):
        engine.submit(order())
    assert not engine.warm
    with engine:
        assert engine.warm
        pending = [engine.submit(order(steps=100)), engine.submit(order(steps=100, width=80))]
        assert begun.wait(30)
    for future in pending:
        with pytest.raises(EngineStopped):
            future.result(timeout=10)
    assert not engine.warm
    with pytest.raises(EngineStopped):
        engine.submit(order())
    engine.stop()
