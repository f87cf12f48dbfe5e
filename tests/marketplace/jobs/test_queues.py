"""Service classes are served by weight: 6 interactive, 3 standard, 1 batch, whoever has something waiting."""

from collections import Counter

import pytest

from marketplace.jobs.queues import Slots, StrideOrder

CLASSES = ("batch", "interactive", "standard")


def serve(cycle, waiting, count):
    """The queues that `count` messages come from, where those in `waiting` never run empty."""
    served = []
    for _ in range(count):
        queue = next(queue for queue in cycle.consume(3) if queue in waiting)
        served.append(cycle.rotate(queue))
    return Counter(served)


def test_busy_queues_are_served_by_weight():
    served = serve(StrideOrder(CLASSES), CLASSES, 1000)
    assert [served[name] for name in ("interactive", "standard", "batch")] == pytest.approx([600, 300, 100], abs=1)


def test_two_busy_queues_share_by_their_weights():
    served = serve(StrideOrder(CLASSES), ("standard", "batch"), 400)
    assert served["standard"] / served["batch"] == pytest.approx(3, rel=0.02)


def test_an_empty_queue_costs_the_others_nothing():
    assert serve(StrideOrder(CLASSES), ("batch",), 50) == {"batch": 50}


@pytest.mark.parametrize("alone", CLASSES)
def test_after_a_long_time_alone_a_queue_shares_at_once(alone):
    cycle = StrideOrder(CLASSES)
    serve(cycle, (alone,), 10_000)
    served = serve(cycle, CLASSES, 100)
    assert served["interactive"] > served["standard"] > served["batch"] > 0
    assert served["interactive"] == pytest.approx(60, abs=1)


@pytest.fixture
def slots():
    found = Slots()
    found.count = 16
    return found


def fill(slots, cycle, queue):
    """Takes messages of this queue until it is looked into no more; how many."""
    taken = 0
    while queue in cycle.consume(3) and taken < slots.count:
        taken += 1
        slots.take(f"{queue} {taken}", cycle.rotate(queue))
    return taken


def test_some_slots_of_a_worker_are_free_for_a_higher_class(slots):
    cycle = StrideOrder(CLASSES, slots)
    assert [fill(slots, cycle, queue) for queue in ("batch", "standard", "interactive")] == [8, 4, 16]
    slots.let_go("batch 1")
    assert fill(slots, cycle, "batch") == 1


def test_a_class_alone_leaves_slots_to_the_higher_ones_only(slots):
    cycle = StrideOrder(CLASSES, slots)
    assert [fill(slots, cycle, queue) for queue in ("standard", "batch")] == [12, 0]
    slots.let_go("standard 1")
    assert fill(slots, cycle, "batch") == 1


def test_a_worker_with_one_slot_serves_all(slots):
    slots.count = 1
    assert set(StrideOrder(CLASSES, slots).consume(3)) == set(CLASSES)
