"""The requests of one service class in the order in which they are due: fair between accounts, without starvation.

Start-time fair queueing (Goyal, Vin and Cheng, 1996) with accounts as flows, and work counted in image tokens times
steps. A request's tag is the queue's virtual time when it came or, if its account has work before it, the end of that
work; the least tag is due first, and is the virtual time. So the 200 requests of one account stand one behind another
in virtual time, and the single request of another account beside the first of them. A request longer than a slice gets
a new tag after each slice, so that a short one need not wait for all of it.

A steady stream of new accounts could keep the later requests of one account waiting for ever. So every eighth turn goes
to the oldest request, whoever's it is. Adding, removing and looking up take a binary search in a sorted list.
"""

from bisect import bisect_left, insort
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from inference.request import BatchKey, Request

AGEING = 8
_IDLE_ACCOUNTS = 1000


class Place(NamedTuple):
    """A request's place in the queue; `arrival` is unique, so places compare by tag and arrival alone."""

    tag: int
    arrival: int
    request: Request
    start: int


@dataclass
class _Account:
    """An account's requests, the last one due at the end, and the virtual time at which their work ends."""

    end: int = 0
    requests: OrderedDict[Request, None] = field(default_factory=OrderedDict)


class FairQueue:
    """The queue of one service class; `weight` is its share of the device, `charge` what it has used of that.

    `slice_` is in image tokens × steps.
    """

    def __init__(self, weight: int, slice_: int) -> None:
        self.weight = weight
        self.charge = 0.0
        self._slice = slice_
        self._turns = 0
        # by arrival
        self._places: OrderedDict[Request, Place] = OrderedDict()
        # by tag
        self._order: list[Place] = []
        self._by_key: dict[BatchKey, list[Place]] = {}
        self._accounts: dict[str, _Account] = {}

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[Request]:
        return iter(self._places)

    def __contains__(self, request: Request) -> bool:
        return request in self._places

    def add(self, request: Request, arrival: int) -> None:
        """Add a request; `arrival` must grow from one to the next."""
        assert request not in self._places, "a request stands in the queue once"
        assert _work_left(request) > 0, "a request comes with steps to run, each of some tokens"
        assert not self._places or next(reversed(self._places.values())).arrival < arrival, "arrivals grow"
        self._forget_idle_accounts()
        account = self._accounts.setdefault(request.account, _Account())
        start = max(account.end, self._order[0].tag if self._order else 0)
        account.end = start + _work_left(request)
        account.requests[request] = None
        self._put(Place(start, arrival, request, start))

    def discard(self, request: Request) -> None:
        """Remove a request, if it is there. If it leaves work undone, its account's last request takes its place."""
        place = self._places.pop(request, None)
        if place is None:
            return
        self._take(place)
        account = self._accounts[request.account]
        del account.requests[request]
        if left := _work_left(request):
            account.end -= left
            last = self._places[next(reversed(account.requests))] if account.requests else place
            if last.start > place.start:
                self._move(last, place.start)
                account.requests.move_to_end(last.request, last=False)
        assert len(self._order) == len(self._places), "every request has one place in the order"

    def due(self) -> Request:
        """Return the request whose turn it is; the queue must not be empty."""
        if self._turns % AGEING == AGEING - 1:
            return next(iter(self._places))
        return self._order[0].request

    def took_turn(self, request: Request) -> None:
        """Record a step that `request` led; it uses up a turn only if the request was due."""
        if request is self.due():
            self._turns += 1

    def stepped(self, request: Request) -> None:
        """Record a step of a request, whoever led it."""
        place = self._places[request]
        if place.tag != (tag := self._tag(request, place.start)):
            self._take(place)
            self._put(place._replace(tag=tag))

    def by_tag(self) -> Iterator[Request]:
        """Iterate over the requests, the first one due first."""
        return (place.request for place in self._order)

    def with_key(self, key: BatchKey) -> Iterator[Request]:
        """Iterate over the requests that can share a forward, the first one due first."""
        return (place.request for place in self._by_key.get(key, ()))

    def _tag(self, request: Request, start: int) -> int:
        return start + request.state.step_index * request.image_tokens // self._slice * self._slice

    def _move(self, place: Place, start: int) -> None:
        self._take(place)
        self._put(place._replace(tag=self._tag(place.request, start), start=start))

    def _put(self, place: Place) -> None:
        self._places[place.request] = place
        insort(self._order, place)
        insort(self._by_key.setdefault(place.request.batch_key, []), place)

    def _take(self, place: Place) -> None:
        key = place.request.batch_key
        for places in (self._order, self._by_key[key]):
            index = bisect_left(places, place)
            assert places[index] is place, "a request stands where its tag says"
            del places[index]
        if not self._by_key[key]:
            del self._by_key[key]

    def _forget_idle_accounts(self) -> None:
        """Drop accounts without requests once the queue is empty or too many are remembered; until then, what they have
        used counts."""
        if not self._places:
            self._accounts.clear()
        elif len(self._accounts) > 2 * len(self._places) + _IDLE_ACCOUNTS:
            self._accounts = {name: account for name, account in self._accounts.items() if account.requests}


def _work_left(request: Request) -> int:
    return request.image_tokens * (request.steps_due - request.state.step_index)
