"""Who runs next, without a model: the cap holds, keys do not mix, shares are kept and nothing starves."""

import types
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from inference.request import Phase, Request
from inference.scheduler import WEIGHTS, Batch, Scheduler

CAP = 64
LATENTS = types.SimpleNamespace()

orders = st.builds(
    Request,
    st.just("a prompt"),
    width=st.sampled_from([64, 128]),
    height=st.sampled_from([64, 128, 256]),
    steps=st.integers(1, 12),
    guidance_scale=st.sampled_from([1.0, 4.0]),
    seed=st.just(0),
    service_class=st.sampled_from(sorted(WEIGHTS)),
)


def order(service_class: str = "standard", **changes) -> Request:
    values = {"width": 64, "height": 64, "steps": 4, "guidance_scale": 1.0, "seed": 0} | changes
    return Request("a prompt", service_class=service_class, **values)


def run(scheduler: Scheduler) -> Batch | None:
    """Schedule one batch and do to its requests what a runner would."""
    batch = scheduler.schedule()
    for request in batch.requests if batch else ():
        assert request.phase is batch.phase
        if batch.phase is Phase.ENCODE:
            request.latents = LATENTS
        elif batch.phase is Phase.DENOISE:
            request.step_index += 1
    if batch:
        scheduler.advance(batch)
    return batch


def drain(scheduler: Scheduler) -> list[Batch]:
    return list(iter(lambda: run(scheduler), None))


@given(st.lists(st.lists(orders, max_size=4), max_size=20))
def test_every_request_gets_its_steps_and_no_batch_is_over_the_cap(arrivals):
    scheduler, batches = Scheduler(CAP), []
    for requests in arrivals:
        for request in requests:
            scheduler.add(request)
        batches.append(run(scheduler))
    batches += drain(scheduler)
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
        # eight big interactive requests wait at any time, and more come
        waiting = sum(request.service_class == "interactive" for request in scheduler)
        for _ in range(8 - waiting):
            scheduler.add(order("interactive", **size, steps=3))
        batch = run(scheduler)
        turns += batch.phase is Phase.DENOISE
        # its class's share at least, also where each turn of the others costs far more tokens than its own
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
    for _ in range(3):
        run(scheduler)
    for _ in range(100):
        led[run(scheduler).requests[0].service_class] += 1
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
    run(scheduler)
    batch = run(scheduler)
    assert batch.phase is Phase.DENOISE
    assert len(batch.requests) == 4
    assert {request.service_class for request in batch.requests} == set(WEIGHTS)


def test_a_finished_row_is_decoded_before_the_others_go_on():
    scheduler = Scheduler(64)
    short, long = order(steps=1), order(steps=9)
    scheduler.add(long)
    scheduler.add(short)
    phases = [run(scheduler).phase for _ in range(4)]
    assert phases == [Phase.ENCODE, Phase.DENOISE, Phase.DECODE, Phase.DENOISE]
    assert list(scheduler) == [long]


def test_a_discarded_request_is_gone_wherever_it_stood():
    scheduler = Scheduler(16)
    waiting, running, decoding = order(), order(steps=2), order(steps=1)
    for request in (decoding, running, waiting):
        scheduler.add(request)
    run(scheduler), run(scheduler)
    assert decoding.phase is Phase.DECODE
    for request in (waiting, running, decoding, waiting):
        scheduler.discard(request)
    assert not scheduler
    assert scheduler.schedule() is None
