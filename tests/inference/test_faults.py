"""A fault in the engine costs as few requests as possible, and is reported."""

import gc
import threading
import time
import weakref

import pytest
import torch

from devstack.processes import wait_until
from inference import recovery
from inference.calibration import StepTimes
from inference.engine import Engine
from inference.errors import BrokenPicture, EngineFault, EngineStopped
from inference.request import Phase
from inference.scheduling import scheduler
from inference.scheduling.scheduler import Batch
from inference.watchdog import DeviceLock
from tests.inference.conftest import difference, order

ROW = order().image_tokens


@pytest.fixture
def own(request):
    """Start an engine that a test may break; a parameter says after how many seconds a batch counts as stuck."""
    with Engine(device="cpu", max_batch_tokens=4 * ROW, stuck_seconds=getattr(request, "param", 5)) as engine:
        yield engine


def spoil(engine, monkeypatch, error, when):
    """Make the runner raise for batches of which `when` is true; return a list of the batches that it gets."""
    run, given = engine._runner.run, []

    def spoilt(batch):
        given.append(batch)
        if when(batch):
            raise error
        run(batch)

    monkeypatch.setattr(engine._runner, "run", spoilt)
    return given


def test_a_row_whose_numbers_break_fails_at_that_step_and_its_batch_mates_pictures_are_the_same(engine, watch):
    pictures = []
    for poisoned in (False, True):
        first, victim, batch_mate = order(steps=6), order(steps=6, seed=1), order(steps=6, seed=2)
        watch.at(1, lambda first=victim, second=batch_mate: (engine.submit(first), engine.submit(second)))
        if poisoned:
            watch.at(5, lambda row=victim: setattr(row.state, "latents", row.state.latents / 0))
        engine.submit(first).result()
        batch_mate.ticket.future.result()
        if poisoned:
            assert isinstance(victim.ticket.future.exception(), BrokenPicture)
            assert victim.state.step_index == 2, "it goes no further"
            assert watch.rows("denoise") == [3, 3, 3, 2, 2, 2]
        else:
            victim.ticket.future.result()
        pictures.append((first.ticket.future.result(), batch_mate.ticket.future.result()))
        watch.reset()
    (first, batch_mate), (beside, other) = pictures
    assert difference(first, beside) <= 1
    assert difference(batch_mate, other) <= 1


def test_where_memory_runs_out_the_cap_halves_and_the_same_rows_go_on(own, monkeypatch):
    requests = [order(seed=seed) for seed in range(4)]
    given = spoil(own, monkeypatch, torch.OutOfMemoryError(), lambda batch: len(batch.requests) > 2)
    for future in [own.submit(request) for request in requests]:
        assert future.result().steps_run == 4
    assert own.max_batch_tokens == 2 * ROW
    assert max(len(batch.requests) for batch in given[-10:]) == 2


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, RuntimeError, MemoryError])
def test_where_memory_ran_out_nothing_of_the_failed_forward_stays_in_it(own, monkeypatch, error):
    run, held, seen = own._runner.run, [], []

    def greedy(batch):
        if len(batch.requests) > 2:
            activations = torch.zeros(1)
            held.append(weakref.ref(activations))
            raise error("DefaultCPUAllocator: can't allocate memory")
        seen.extend(each() for each in held)
        run(batch)

    requests = [order(seed=seed) for seed in range(4)]
    monkeypatch.setattr(own._runner, "run", greedy)
    gc.disable()
    try:
        for future in [own.submit(request) for request in requests]:
            assert future.result().steps_run == 4
    finally:
        gc.enable()
    assert held
    assert not any(each is not None for each in seen)


def test_a_request_too_large_for_the_memory_fails_alone(own, monkeypatch):
    large = order(width=256)
    spoil(own, monkeypatch, torch.OutOfMemoryError(), lambda batch: large in batch.requests)
    with pytest.raises(EngineFault):
        own.submit(large).result()
    assert own.max_batch_tokens == 4 * ROW
    assert own.submit(order()).result().steps_run == 4


def test_requests_that_raise_by_themselves_do_not_stop_an_engine_that_works(own, monkeypatch):
    bad = [order(seed=seed, width=64) for seed in range(5)]
    spoil(own, monkeypatch, ValueError("malformed"), lambda batch: not set(bad).isdisjoint(batch.requests))
    for request in bad:
        assert isinstance(own.submit(request).exception(), EngineFault)
    assert own.warm
    assert own.submit(order()).result().steps_run == 4


def test_an_engine_that_can_do_nothing_any_more_gives_back_what_waits(own, monkeypatch):
    monkeypatch.setattr(scheduler, "AHEAD", 0)  # so that nothing is done for the waiting one
    running, waiting, finish = order(), order(width=64), own._finish
    # time enough for the other thread to begin something
    monkeypatch.setattr(own, "_finish", lambda *given: (time.sleep(0.2), finish(*given))[1])
    spoil(own, monkeypatch, RuntimeError("device-side assert"), lambda batch: running.state.latents is not None)
    own.submit(running)
    own.submit(waiting)
    assert isinstance(running.ticket.future.exception(timeout=30), EngineFault)
    assert isinstance(waiting.ticket.future.exception(timeout=30), EngineStopped)
    assert not own.warm
    with pytest.raises(EngineStopped):
        own.submit(order())


@pytest.mark.parametrize("own", [1], indirect=True)
def test_an_engine_that_hangs_while_it_proves_itself_is_noticed_too(own, monkeypatch):
    bad, waiting, free = order(), order(width=64), threading.Event()
    own.step_times = StepTimes((1,), (0.0,))
    monkeypatch.setattr("inference.recovery.warm_up", lambda runner, card: free.wait(30))
    spoil(own, monkeypatch, RuntimeError("device-side assert"), lambda batch: True)
    try:
        with pytest.raises(EngineFault):
            own.submit(bad).result(timeout=20)
        with pytest.raises(EngineStopped):
            own.submit(waiting).result(timeout=20)
        assert not own.warm
    finally:
        free.set()


@pytest.mark.parametrize("own", [1], indirect=True)
@pytest.mark.parametrize("phase", [Phase.ENCODE, Phase.DENOISE, Phase.DECODE])
def test_what_is_stuck_is_noticed_said_and_given_up(own, monkeypatch, caplog, phase):
    free, stuck, waiting = threading.Event(), order(reference="job 7", steps=9), order(width=64)
    run = own._runner.run

    def hangs(batch):
        if batch.phase is phase and stuck in batch.requests:
            own.submit(waiting)
            free.wait(30)
        run(batch)

    own.step_times = StepTimes((1,), (0.0,))
    monkeypatch.setattr(own._runner, "run", hangs)
    try:
        with pytest.raises(EngineFault, match="stuck"):
            own.submit(stuck).result(timeout=20)
        assert (stuck,) in [running.batch.requests for running in own.running()]
        assert isinstance(waiting.ticket.future.exception(timeout=5), EngineStopped)
        assert not own.warm
        assert f"{phase} for" in caplog.text
        assert f"job 7 (128x128, step {9 if phase is Phase.DECODE else 0} of 9)" in caplog.text
        began = time.monotonic()
        own.stop()
        assert time.monotonic() - began < 5, "nobody waits for a step that hangs"
    finally:
        free.set()


def test_no_step_waits_for_a_prompt_or_a_picture(own, monkeypatch):
    running, slow, meanwhile = order(steps=100), order(seed=1), []
    run = own._runner.run

    def lasts(batch):
        if slow in batch.requests and batch.phase is not Phase.DENOISE:
            before = running.state.step_index
            assert wait_until(lambda: running.state.step_index >= before + 5, 20)
            meanwhile.append(batch.phase)
        run(batch)

    own.submit(running)
    assert wait_until(lambda: running.state.step_index, 20)
    monkeypatch.setattr(own._runner, "run", lasts)
    assert own.submit(slow).result(timeout=60).steps_run == 4
    assert meanwhile == [Phase.ENCODE, Phase.DECODE]
    own.cancel(running)


def test_a_deterministic_request_has_the_device_alone(own, monkeypatch):
    beside, alone, run = [order(steps=30, seed=seed) for seed in range(3)], order(deterministic=True), own._runner.run
    together = []

    def counted(batch):
        run(batch)
        if alone in batch.requests:
            together.append(len(own.running()))

    monkeypatch.setattr(own._runner, "run", counted)
    for future in [own.submit(request) for request in (*beside, alone)]:
        future.result()
    assert together == [1] * 6


def test_a_picture_for_which_there_is_no_memory_beside_a_step_is_tried_alone(own, monkeypatch):
    running, picture, run, tries = order(steps=100), order(seed=1), own._runner.run, []

    def greedy(batch):
        if batch.phase is Phase.DECODE:
            tries.append(len(own.running()))
            if len(tries) == 1:
                raise torch.OutOfMemoryError
        run(batch)

    monkeypatch.setattr(own._runner, "run", greedy)
    own.submit(running)
    assert own.submit(picture).result(timeout=60).steps_run == 4
    assert tries[1:] == [1]
    assert own.max_batch_tokens == 4 * ROW
    own.cancel(running)


class NoMemory:
    """Runs an engine's batches, but has no memory to decode one request whole, nor so many times in pieces."""

    def __init__(self, engine, request, monkeypatch, *, in_pieces: int) -> None:
        self.run, self.pieces = engine._runner.run, engine._runner.decode_in_pieces
        self.request, self.left, self.phases, self.paused = request, in_pieces, [], []
        monkeypatch.setattr(engine._runner, "run", self._run)
        monkeypatch.setattr(engine._runner, "decode_in_pieces", self._decode_in_pieces)
        monkeypatch.setattr(engine._recovery, "_pause", self.paused.append)

    def _run(self, batch: Batch) -> None:
        if self.request in batch.requests:
            self.phases.append(batch.phase)
            if batch.phase is Phase.DECODE:
                raise RuntimeError("CUDA error: out of memory")
        self.run(batch)

    def _decode_in_pieces(self, batch: Batch) -> None:
        self.left -= 1
        if self.left >= 0:
            raise torch.OutOfMemoryError
        self.pieces(batch)


@pytest.mark.parametrize("times", [0, 1, 3])
def test_finished_steps_are_not_lost_to_a_decode_without_memory(own, monkeypatch, times):
    whole = own.submit(order(width=320)).result()
    request = order(width=320)
    device = NoMemory(own, request, monkeypatch, in_pieces=times)
    picture = own.submit(request).result(timeout=60)
    assert picture.steps_run == 4
    assert difference(picture, whole) <= 1
    assert device.phases == [Phase.ENCODE, *[Phase.DENOISE] * 4, Phase.DECODE, Phase.DECODE]
    assert device.paused == list(recovery.PAUSES[:times])
    assert own.max_batch_tokens == 4 * ROW


def test_a_picture_for_which_there_never_is_memory_fails_alone(own, monkeypatch):
    request = order()
    device = NoMemory(own, request, monkeypatch, in_pieces=100)
    assert isinstance(own.submit(request).exception(timeout=60), EngineFault)
    assert device.paused == list(recovery.PAUSES)
    assert own.submit(order()).result(timeout=60).steps_run == 4


def test_an_engine_that_stops_waits_for_no_memory(own, monkeypatch):
    request, pause = order(), own._recovery._pause
    device = NoMemory(own, request, monkeypatch, in_pieces=100)
    monkeypatch.setattr(own._recovery, "_pause", lambda _: (device.paused.append(0), pause(600)))
    own.submit(request)
    assert wait_until(lambda: device.paused, 20)
    own.stop()
    assert isinstance(request.ticket.future.exception(timeout=20), EngineStopped)


def test_adapters_that_nobody_has_make_room_for_a_step(own, monkeypatch, adapter):
    own.submit(order(adapters=((adapter, 1.0),))).result()
    assert wait_until(lambda: not any(each.pins for each in own._bank._residents.values()), 20)
    assert own._bank.nbytes
    run, held = own._runner.run, []

    def greedy(batch):
        if batch.phase is Phase.DENOISE and not held:
            held.append(own._bank.nbytes)
            raise torch.OutOfMemoryError
        run(batch)

    monkeypatch.setattr(own._runner, "run", greedy)
    assert own.submit(order()).result(timeout=60).steps_run == 4
    assert held[0] > 0 == own._bank.nbytes


def test_a_batch_for_which_there_is_no_memory_beside_codec_work_keeps_the_cap(own, monkeypatch):
    run, tries = own._runner.run, []

    def greedy(batch):
        if len(batch.requests) > 1:
            tries.append(len(own.running()))
            if len(tries) == 1:
                raise torch.OutOfMemoryError
        run(batch)

    monkeypatch.setattr(own._runner, "run", greedy)
    for future in [own.submit(order(seed=seed)) for seed in range(4)]:
        assert future.result(timeout=60).steps_run == 4
    assert tries[1] == 1
    assert own.max_batch_tokens == 4 * ROW


def test_who_is_left_when_a_request_is_canceled_goes_on_at_once(own, monkeypatch):
    monkeypatch.setattr(scheduler, "AHEAD", 0)  # so that only those whose turn it is are ready
    running, left, fail = order(steps=100), order(width=64), own._fail
    # by then the other thread has found that there is nothing to do
    monkeypatch.setattr(own, "_fail", lambda request, error: (time.sleep(0.3), fail(request, error)))
    own.submit(running)
    own.submit(left)
    assert wait_until(lambda: running.state.step_index > 2, 20)
    own.cancel(running)
    assert left.ticket.future.result(timeout=20).steps_run == 4


def test_who_asks_for_the_device_first_has_it_first():
    lock, batch, begun, ended = DeviceLock(), Batch(Phase.DENOISE, (order(),)), [], threading.Event()

    def exclusive_for_ever():
        while not ended.is_set():
            with lock.hold(batch, 60, exclusive=True):
                begun.append(time.monotonic())
                time.sleep(0.01)

    greedy = threading.Thread(target=exclusive_for_ever)
    greedy.start()
    try:
        for _ in range(10):
            assert wait_until(lambda: lock.running(), 5)
            before = len(begun)
            with lock.hold(batch, 60):
                assert len(begun) <= before + 1
    finally:
        ended.set()
        greedy.join()


def test_a_row_that_begins_from_latents_has_not_waited_for_its_first_step(engine, watch):
    engine.submit(order(use_cache=True)).result()
    assert next(report.waited for report in watch.reports if report.phase == "denoise") == 0


def test_how_long_begun_rows_waited_for_their_next_step_is_reported(engine, watch):
    watch.at(3, lambda: time.sleep(0.2))
    engine.submit(order()).result()
    waited = [report.waited for report in watch.reports]
    assert waited[3] >= 0.2
    assert waited[0] == waited[1] == waited[5] == 0
