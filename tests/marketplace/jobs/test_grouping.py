"""Group commit, without a database: who comes while others are on their way goes with the next, and waits no longer."""

import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from marketplace.jobs.grouping import Group


class Ferry:
    """Carries calls back doubled, each time it is let go; `trips` has what went together."""

    def __init__(self, largest: int = 32) -> None:
        self.trips: list[list[int]] = []
        self.may_go = threading.Semaphore(0)
        self.group = Group(self.carry, largest)

    def carry(self, calls):
        self.trips.append(list(calls))
        self.may_go.acquire()
        if 13 in calls:
            raise ValueError("sunk")
        return [2 * call for call in calls]

    def board(self, pool: ThreadPoolExecutor, *calls: int) -> list[Future[int]]:
        """One thread a call, in this order: each waits or sails before the next one comes."""
        boarded = []
        for call in calls:
            known = len(self.trips), len(self.group._waiting)
            boarded.append(pool.submit(self.group.join, call))
            while (len(self.trips), len(self.group._waiting)) == known:
                time.sleep(0.001)
        return boarded


@pytest.fixture
def pool():
    with ThreadPoolExecutor(16) as threads:
        yield threads


def test_a_lone_call_goes_at_once():
    ferry = Ferry()
    ferry.may_go.release()
    assert ferry.group.join(4) == 8
    assert ferry.trips == [[4]]


def test_who_comes_meanwhile_goes_together_in_order_and_gets_its_own_outcome(pool):
    ferry = Ferry()
    boarded = ferry.board(pool, 1, 2, 3, 4)
    ferry.may_go.release(2)
    assert [each.result(5) for each in boarded] == [2, 4, 6, 8]
    assert ferry.trips == [[1], [2, 3, 4]]


def test_a_group_has_a_largest_size(pool):
    ferry = Ferry(largest=2)
    boarded = ferry.board(pool, 1, 2, 3, 4, 5, 6)
    ferry.may_go.release(4)
    assert [each.result(5) for each in boarded] == [2, 4, 6, 8, 10, 12]
    assert ferry.trips == [[1], [2, 3], [4, 5], [6]]


def test_what_goes_wrong_meets_those_who_were_on_board_and_nobody_else(pool):
    ferry = Ferry()
    boarded = ferry.board(pool, 1, 2, 13)
    ferry.may_go.release()
    assert boarded[0].result(5) == 2
    while len(ferry.trips) < 2:
        time.sleep(0.001)
    boarded += ferry.board(pool, 5)
    ferry.may_go.release(2)
    for sunk in boarded[1:3]:
        with pytest.raises(ValueError, match="sunk"):
            sunk.result(5)
    assert boarded[3].result(5) == 10


def test_many_threads_all_get_their_own_outcome(pool):
    group = Group(lambda calls: [-call for call in calls], 4)
    assert list(pool.map(group.join, range(2000))) == [-call for call in range(2000)]
