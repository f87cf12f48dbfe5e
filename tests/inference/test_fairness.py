"""Fair between accounts, without starvation: what the scheduler promises inside a service class, without a model."""

import itertools
import sys
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference.request import Phase
from inference.scheduling.fair_queue import AGEING
from inference.scheduling.scheduler import SLICE_STEPS, WEIGHTS, Scheduler
from tests.inference.schedules import drain, order, run, step

CAP = 64
played = settings(max_examples=settings.default.max_examples // 4)
SIZES = [{"width": 64, "height": 64}, {"width": 128, "height": 64}, {"width": 128, "height": 128}]
sizes = st.sampled_from(SIZES)
jobs = st.builds(
    lambda account, service_class, size, steps: order(service_class, account=account, steps=steps, **size),
    st.sampled_from("abc"),
    st.sampled_from(sorted(WEIGHTS)),
    sizes,
    st.integers(1, 6),
)


def crowd(scheduler, account, count, **changes):
    requests = [order(account=account, **changes) for _ in range(count)]
    for request in requests:
        scheduler.add(request)
    return requests


def steps_until_done(scheduler, request):
    """Count denoising batches, of anybody, until a request has all its steps."""
    turns = 0
    while request.phase is not Phase.DECODE:
        step(scheduler)
        turns += 1
    return turns


def work(requests):
    return sum(request.image_tokens * request.state.step_index for request in requests)


@played
@given(st.integers(0, 30), st.integers(1, 200))
def test_one_job_beside_another_accounts_200_is_made_at_once(begun, crowded):
    scheduler = Scheduler(CAP)
    crowd(scheduler, "alice", crowded, steps=20)
    for _ in range(begun):
        run(scheduler)
    (single,) = crowd(scheduler, "bob", 1, steps=7)
    assert steps_until_done(scheduler, single) == 7


def test_one_job_of_another_size_waits_for_one_request_of_the_200():
    scheduler = Scheduler(CAP)
    crowd(scheduler, "alice", 200, steps=20)
    step(scheduler)
    (single,) = crowd(scheduler, "bob", 1, steps=7, width=128)
    assert steps_until_done(scheduler, single) <= 20 + 7


def test_a_short_request_waits_for_a_slice_of_a_long_one():
    scheduler = Scheduler(CAP)
    crowd(scheduler, "alice", 1, steps=1000, width=128, height=128)
    step(scheduler)
    (single,) = crowd(scheduler, "bob", 1, steps=4)
    assert steps_until_done(scheduler, single) == SLICE_STEPS - 1 + 4


@played
@given(st.lists(st.tuples(sizes, st.integers(1, 30)), min_size=2, max_size=4), st.integers(20, 200))
def test_accounts_that_always_have_work_get_the_same(kinds, turns):
    scheduler = Scheduler(CAP)
    requests = {
        account: crowd(scheduler, account, 1 + 8 * turns // steps, steps=steps, **size)
        for account, (size, steps) in zip("abcd", kinds, strict=False)
    }
    for _ in range(turns):
        step(scheduler)
    shares = sorted(work(each) for each in requests.values())
    largest = max(each[0].image_tokens * each[0].steps for each in requests.values())
    # shares hold within one request; a batch may run ahead by all its rows; every eighth turn is the oldest's
    assert shares[-1] - shares[0] <= largest * (1 + CAP // 16) + turns * CAP // AGEING


@played
@given(sizes, sizes, st.sampled_from(sorted(WEIGHTS)), st.integers(1, 5), st.integers(1, 5))
def test_a_rare_size_does_not_starve_beside_accounts_that_never_stop_coming(rare, common, name, before, steps):
    scheduler = Scheduler(CAP)
    # new accounts are the worst case for an account's later requests
    older = crowd(scheduler, "alice", before, service_class=name, steps=steps, **common)
    (patient,) = crowd(scheduler, "alice", 1, service_class=name, steps=steps, **rare)
    turns, strangers = 0, itertools.count()
    while patient.phase is not Phase.DECODE:
        waiting = Counter(request.service_class for request in scheduler)
        for other in WEIGHTS:
            for _ in range(10 - waiting[other]):
                scheduler.add(order(other, account=f"stranger {next(strangers)}", steps=3, **common))
        step(scheduler)
        turns += 1
    # the most turns of each other class between two turns of ours: its batches are the smallest, ours the largest
    smallest = min(patient.image_tokens, 64 // older[0].image_tokens * older[0].image_tokens)
    others = sum(1 + CAP / smallest * weight / WEIGHTS[name] for other, weight in WEIGHTS.items() if other != name)
    assert turns <= AGEING * steps * (before + 1) * (1 + others)


def test_an_interactive_request_has_its_turn_at_the_next_step_and_rows_resume_where_they_were():
    for size in SIZES:
        scheduler = Scheduler(CAP)
        rows = crowd(scheduler, "alice", 4, service_class="batch", steps=9)
        assert [len(step(scheduler).requests) for _ in range(3)] == [4] * 3
        (urgent,) = crowd(scheduler, "bob", 1, service_class="interactive", steps=5, **size)
        assert urgent in step(scheduler).requests
        # a class six times as heavy leads six times as often
        assert steps_until_done(scheduler, urgent) <= 5
        batches = [batch for batch in drain(scheduler) if batch.phase is Phase.DENOISE]
        assert all(row.state.step_index == 9 for row in rows)
        assert sum(len(batch.requests) for batch in batches) <= 4 * 6


def test_what_an_account_cancels_does_not_hold_its_other_jobs_back():
    scheduler = Scheduler(16)
    canceled = crowd(scheduler, "alice", 100)
    kept = crowd(scheduler, "alice", 2)
    crowd(scheduler, "bob", 100)
    for request in canceled:
        scheduler.discard(request)
    kept += crowd(scheduler, "alice", 1)
    # beside bob every other request is alice's, and every eighth turn the oldest's
    assert sum(steps_until_done(scheduler, request) for request in kept) <= 3 * 2 * 4 + 3


@played
@given(st.lists(st.tuples(st.lists(jobs, max_size=5), st.integers(0, 8)), max_size=15), st.randoms())
def test_the_device_never_idles_and_cancels_leave_no_trace(arrivals, dice):
    scheduler, requests, canceled = Scheduler(CAP), [], set()
    for arriving, turns in arrivals:
        for request in arriving:
            scheduler.add(request)
        requests += arriving
        for _ in range(turns):
            ready = Counter(each.batch_key for each in scheduler if each.phase is Phase.DENOISE)
            batch = run(scheduler)
            assert batch or not scheduler
            if batch and batch.phase is Phase.DENOISE:
                first = batch.requests[0]
                room = max(1, CAP // first.image_tokens)
                assert len(batch.requests) == min(room, ready[first.batch_key])
        if requests and dice.random() < 0.5:
            canceled.add(victim := dice.choice(requests))
            scheduler.discard(victim)
    drain(scheduler)
    assert all(request.state.step_index == request.steps for request in requests if request not in canceled)
    assert (bool(scheduler), list(scheduler)) == (False, [])


@pytest.mark.parametrize("sizes", [1, 50])
def test_a_schedule_takes_no_longer_with_thousands_waiting(sizes):
    def calls(waiting):
        scheduler, count = Scheduler(CAP), 0
        for index in range(waiting):
            name = list(WEIGHTS)[index % 3]
            scheduler.add(order(name, account=str(index % 97), width=64 + 16 * (index % sizes)))

        def note(frame, event, argument):
            nonlocal count
            count += event in ("call", "c_call")

        sys.setprofile(note)
        try:
            for _ in range(200):
                run(scheduler)
        finally:
            sys.setprofile(None)
        return count

    assert calls(5_000) < 1.5 * calls(300)
