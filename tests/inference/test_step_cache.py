"""The step cache: off unless asked for, decided row by row, without effect on other rows."""

import numpy as np
import pytest

from inference.errors import InvalidRequest
from inference.request import Request
from inference.state import Picture
from tests.inference.conftest import difference, order

STEPS = 8
# most steps reuse; some do; none does
OFTEN, SOMETIMES, NEVER = 1.0, 0.3, 1e-12


def test_it_is_off_unless_asked_for(engine):
    assert engine.submit(order()).result().steps_reused == 0


def test_steps_that_change_little_are_reused_and_the_picture_stays_alike(engine, watch):
    plain = engine.submit(order(steps=20)).result()
    cached = engine.submit(order(steps=20, step_cache=SOMETIMES)).result()
    assert 0 < cached.steps_reused < 19
    assert cached.steps_run == 20
    assert difference(plain, cached) > 0
    assert mean_difference(plain, cached) < mean_difference(plain, engine.submit(order(steps=20, seed=8)).result())


def test_a_threshold_that_is_never_met_changes_nothing(engine):
    computed = engine.submit(order(step_cache=NEVER)).result()
    assert computed.steps_reused == 0
    assert difference(computed, engine.submit(order()).result()) <= 1


@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_rows_that_reuse_leave_the_forward_and_the_others_do_not_notice(engine, watch, guidance):
    def rows() -> list[Request]:
        caches = (OFTEN, 0.0, NEVER, SOMETIMES)
        return [
            order(steps=STEPS, guidance_scale=guidance, seed=seed, step_cache=each) for seed, each in enumerate(caches)
        ]

    alone = [engine.submit(request).result() for request in rows()]
    watch.reset()
    together = rows()
    watch.at(1, lambda: [engine.submit(request) for request in together])
    engine.submit(order(steps=1, width=80)).result()
    for request, picture in zip(together, alone, strict=True):
        assert difference(request.ticket.future.result(), picture) <= 1
        assert request.ticket.future.result().steps_reused == picture.steps_reused
    assert watch.rows("denoise").count(4) == STEPS
    assert alone[0].steps_reused > STEPS / 2
    assert alone[1].steps_reused == alone[2].steps_reused == 0


def test_rows_that_go_on_keep_their_own_adapters(engine, watch, adapter):
    def rows() -> list[Request]:
        adapters = ((adapter, 1.0),)
        return [order(seed=1, step_cache=OFTEN), order(seed=2, adapters=adapters), order(seed=3, step_cache=NEVER)]

    alone = [engine.submit(request).result() for request in rows()]
    watch.reset()
    together = rows()
    watch.at(1, lambda: [engine.submit(request) for request in together])
    engine.submit(order(steps=6)).result()
    for request, picture in zip(together, alone, strict=True):
        assert difference(request.ticket.future.result(), picture) <= 1
    assert difference(alone[1], engine.submit(order(seed=2)).result()) > 1


@pytest.mark.parametrize("threshold", [-0.1, 1.1, float("nan")])
def test_a_threshold_out_of_bounds_is_refused(engine, threshold):
    with pytest.raises(InvalidRequest) as refusal:
        engine.submit(order(step_cache=threshold))
    assert refusal.value.param == "step_cache"


def mean_difference(one: Picture, other: Picture) -> float:
    return float(np.abs(np.asarray(one.image).astype(int) - np.asarray(other.image)).mean())
