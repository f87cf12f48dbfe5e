"""The scheduler without a model: the cap holds, keys do not mix, shares are kept, and nothing starves."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.request import Phase
from inference.scheduling.scheduler import AHEAD, WEIGHTS, Batch, Scheduler
from tests.inference.schedules import Threads, accepted, drain, end, order, run, step

CAP = 64
orders = st.builds(
    accepted,
    st.just("a prompt"),
    condition_grids=st.sampled_from([(), (), ((4, 4),), ((4, 4), (2, 6))]),
    width=st.sampled_from([64, 128]),
    height=st.sampled_from([64, 128, 256]),
    steps=st.integers(1, 12),
    guidance_scale=st.sampled_from([1.0, 4.0]),
    seed=st.just(0),
    service_class=st.sampled_from(sorted(WEIGHTS)),
)


@given(st.lists(st.lists(orders, max_size=4), max_size=20), st.randoms())
def test_every_request_gets_its_steps_and_no_batch_is_over_the_cap(arrivals, dice):
    threads = Threads(Scheduler(CAP))
    scheduler, batches = threads.scheduler, []
    for requests in arrivals:
        for request in requests:
            scheduler.add(request)
        batches.append(threads.turn(dice.choice(["steps", "codec"])))
    batches += threads.drain(dice)
    turns, decoded = Counter(), Counter()
    for batch in filter(None, batches):
        if batch.phase is Phase.DENOISE:
            assert len({request.batch_key for request in batch.requests}) == 1
            assert batch.image_tokens <= CAP or len(batch.requests) == 1
            turns.update(batch.requests)
        elif batch.phase is Phase.DECODE:
            decoded.update(batch.requests)
    requests = [request for group in arrivals for request in group]
    assert {request: turns[request] for request in requests} == {request: request.steps for request in requests}
    assert decoded == Counter(requests)
    assert not scheduler
    assert list(scheduler) == []


@given(orders, st.sampled_from([{"width": 64, "height": 64}, {"width": 128, "height": 256}]))
def test_nothing_starves_beside_an_endless_interactive_load(patient, size):
    scheduler = Scheduler(CAP)
    scheduler.add(patient)
    turns = 0
    while patient.phase is not Phase.DECODE:
        # eight big interactive requests wait at any time
        waiting = sum(request.service_class == "interactive" for request in scheduler)
        for _ in range(8 - waiting):
            scheduler.add(order("interactive", **size, steps=3))
        batch = run(scheduler)
        turns += batch.phase is Phase.DENOISE
        # at least its class's share, even if each turn of the others costs far more tokens than its own
        assert turns <= 3 + patient.steps * 7 * 16


@given(st.integers(1, 40))
def test_the_oldest_of_a_class_is_not_overtaken_by_riders_of_another_size(riders):
    scheduler = Scheduler(CAP)
    oldest = order("batch", width=128, height=128, steps=2)
    scheduler.add(oldest)
    for _ in range(riders):
        scheduler.add(order("batch", steps=50))
        scheduler.add(order("interactive", steps=50))
    turns = 0
    while oldest.phase is not Phase.DECODE:
        turns += run(scheduler).phase is Phase.DENOISE
    assert turns <= 2 + 2 * 7


def test_classes_share_the_device_by_weight():
    scheduler, led = Scheduler(16), Counter()
    for name in WEIGHTS:
        scheduler.add(order(name, steps=100))
    for _ in range(100):
        led[step(scheduler).requests[0].service_class] += 1
    assert all(abs(led[name] - 10 * weight) <= 1 for name, weight in WEIGHTS.items())


def test_a_class_that_was_idle_has_no_claim_on_the_past():
    scheduler = Scheduler(16)
    scheduler.add(order("standard", steps=100))
    for _ in range(60):
        run(scheduler)
    scheduler.add(order("batch", steps=50))
    led = Counter(run(scheduler).requests[0].service_class for _ in range(21))
    assert led["standard"] >= 14


def test_free_room_goes_to_the_other_classes():
    scheduler = Scheduler(64)
    requests = [order("batch"), order("interactive"), order("standard"), order("batch"), order("batch")]
    for request in requests:
        scheduler.add(request)
    batch = step(scheduler)
    assert len(batch.requests) == 4
    assert {request.service_class for request in batch.requests} == set(WEIGHTS)


def test_a_finished_row_is_decoded_before_the_others_go_on():
    scheduler = Scheduler(64)
    short, long = order(steps=1), order(steps=9)
    scheduler.add(long)
    scheduler.add(short)
    phases = [run(scheduler).phase for _ in range(5)]
    assert phases == [Phase.ENCODE, Phase.ENCODE, Phase.DENOISE, Phase.DECODE, Phase.DENOISE]
    assert list(scheduler) == [long]


def test_steps_go_on_while_pictures_and_prompts_are_worked_on():
    threads = Threads(Scheduler(256))
    running = order("batch", steps=50)
    threads.scheduler.add(running)
    run(threads.scheduler), run(threads.scheduler)
    edits = [order(name, condition_grids=((4, 4),) * 2, steps=1) for name in ("interactive", "interactive", "standard")]
    for request in edits:
        threads.scheduler.add(request)
    for turn in range(1, 10):
        threads.turn("codec")
        for _ in range(3):
            threads.turn("steps")
            assert threads.turn("steps").requests[0] is running, "the others have not all been encoded"
        assert len(threads.turn("codec").requests) == 1
        assert running.state.step_index == 1 + 3 * turn
    threads.turn("steps")
    assert set(threads.turn("steps").requests) == set(edits), "those who came together begin together"


def test_a_row_joins_no_step_before_its_prompts_are_done_with():
    threads = Threads(Scheduler(64))
    running, late = order(steps=9), order(steps=9)
    threads.scheduler.add(running)
    run(threads.scheduler), run(threads.scheduler)
    threads.scheduler.add(late)
    threads.turn("codec")
    # the runner has written its result, but the batch has not ended
    late.state.latents = running.state.latents
    threads.turn("steps")
    assert threads.turn("steps").requests == (running,)
    threads.scheduler.advance(threads.running.pop("codec"))
    threads.turn("steps")
    assert threads.turn("steps").requests == (running, late)


def test_the_class_that_leads_next_is_made_ready_too():
    scheduler = Scheduler(16)
    for name in ("interactive", "batch"):
        scheduler.add(order(name, steps=9))
    assert [run(scheduler).phase for _ in range(3)] == [Phase.ENCODE, Phase.ENCODE, Phase.DENOISE]


def test_those_who_come_next_are_ready_when_the_first_have_ended():
    scheduler = Scheduler(64)
    first = [order(steps=2) for _ in range(4)]
    following = [order(width=128, height=128, steps=1) for _ in range(9)]
    for request in (*first, *following):
        scheduler.add(request)
    batches = [run(scheduler) for _ in range(4 + AHEAD + 2)]
    assert [batch.phase for batch in batches] == [Phase.ENCODE] * (4 + AHEAD) + [Phase.DENOISE] * 2
    assert set(batches[-1].requests) == set(first)
    assert scheduler.next_step().requests == (following[0],)


def test_pictures_are_read_one_after_another_where_nobody_can_go_a_step():
    scheduler = Scheduler(64)
    scheduler.add(order(condition_grids=((4, 4),) * 2, steps=1))
    assert [run(scheduler).phase for _ in range(4)] == [Phase.READ, Phase.READ, Phase.ENCODE, Phase.DENOISE]


def test_those_who_came_together_begin_together():
    scheduler = Scheduler(64)
    for _ in range(2):
        scheduler.add(order(condition_grids=((4, 4),), steps=2))
    batches = [run(scheduler) for _ in range(6)]
    assert [batch.phase for batch in batches] == [Phase.READ, Phase.ENCODE] * 2 + [Phase.DENOISE] * 2
    assert len(batches[-1].requests) == 2


def test_only_requests_whose_pictures_have_equal_shapes_share_a_forward():
    scheduler = Scheduler(1000)
    for condition_grids in ((), ((4, 4),), ((4, 4),), ((4, 4), (4, 4)), ((2, 8),)):
        scheduler.add(order(condition_grids=condition_grids, steps=1))
    assert sorted(len(batch.requests) for batch in drain(scheduler) if batch.phase is Phase.DENOISE) == [1, 1, 1, 2]


def test_a_discarded_request_is_gone_wherever_it_stood():
    scheduler = Scheduler(16)
    waiting, running, decoding = order(), order(steps=2), order(steps=1)
    for request in (decoding, running, waiting):
        scheduler.add(request)
    step(scheduler)
    assert decoding.phase is Phase.DECODE
    for request in (waiting, running, decoding, waiting):
        scheduler.discard(request)
    assert not scheduler
    assert scheduler.next_step() is scheduler.next_codec() is None


def test_a_request_is_added_once():
    scheduler, request = Scheduler(64), order(steps=1)
    scheduler.add(request)
    with pytest.raises(AssertionError, match="stands in the queue once"):
        scheduler.add(request)
    step(scheduler)
    with pytest.raises(AssertionError, match="stands in one queue"):
        scheduler.add(request)


def test_only_the_batch_that_was_given_out_is_advanced():
    scheduler, request = Scheduler(64), order()
    scheduler.add(request)
    codec = scheduler.next_codec()
    with pytest.raises(AssertionError, match="one codec batch at a time"):
        scheduler.next_codec()
    with pytest.raises(AssertionError, match="given out"):
        scheduler.advance(Batch(codec.phase, (request,)))
    end(scheduler, codec)
    begun = scheduler.next_step()
    with pytest.raises(AssertionError, match="one step at a time"):
        scheduler.next_step()
    end(scheduler, begun)
    with pytest.raises(AssertionError, match="given out"):
        scheduler.advance(begun)
