"""Who runs next: waiting and running requests in, one batch at a time out.

Holds no tensors and runs no model; it reads of a request only its class, account, batch key, phase, steps and token
count, and whether it has images.
Not thread-safe: the engine calls it under its lock.

Service classes take turns to lead by stride scheduling (Waldspurger and Weihl, 1995): each turn is charged
the tokens it ran, divided by the class's weight, and the class with the least charge leads next. Within a class
`line` says who is due, and that request fixes the batch key. Its own class fills the batch first, then the others by
weight, up to the cap; rows that find no room keep their state and wait. Only the leader is charged, so every class
moves at its share at least, and nothing starves.

All other work, on pictures and prompts, is done piece by piece between steps. It may take as long as the step before
it did; then a batch that has begun goes on first. One that has not begun waits for those who could begin with it.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, islice

from inference.line import Line
from inference.request import Phase, Request

WEIGHTS: Mapping[str, int] = {"interactive": 6, "standard": 3, "batch": 1}
# after how much work, in steps of a full batch, a long request lets others of its class by
SLICE_STEPS = 64


@dataclass(frozen=True)
class Batch:
    """Requests that run together through one phase; a denoising batch shares one key."""

    phase: Phase
    requests: tuple[Request, ...]

    @property
    def image_tokens(self) -> int:
        return sum(request.image_tokens for request in self.requests)


class Scheduler:
    """Batches under a cap of image tokens per forward; a single request over the cap runs alone.

    `schedule` begins a batch and `advance` ends it; `clock` tells the seconds in between.
    """

    def __init__(
        self,
        max_batch_tokens: int,
        weights: Mapping[str, int] = WEIGHTS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.max_batch_tokens = max_batch_tokens
        self._clock = clock
        self._lines = {name: Line(weight, SLICE_STEPS * max_batch_tokens) for name, weight in weights.items()}
        self._decoding: OrderedDict[Request, None] = OrderedDict()
        self._running: tuple[Request, ...] = ()
        # seconds that other work may still take before the next step
        self._slack = 0.0
        self._began = 0.0
        self._arrivals = 0
        self._now = 0.0

    def __bool__(self) -> bool:
        return bool(self._decoding) or any(self._lines.values())

    def __iter__(self) -> Iterator[Request]:
        return chain(self._decoding, *self._lines.values())

    def add(self, request: Request) -> None:
        line = self._lines[request.service_class]
        if not line:
            # a class that was idle has no claim on the past
            line.charge = max(line.charge, self._now)
        self._arrivals += 1
        line.add(request, self._arrivals)

    def discard(self, request: Request) -> None:
        """Forget a request wherever it stands; unknown ones are ignored."""
        self._lines[request.service_class].discard(request)
        self._decoding.pop(request, None)

    def schedule(self) -> Batch | None:
        """The next batch, or None where nothing waits."""
        self._began = self._clock()
        lines = sorted((line for line in self._lines.values() if line), key=lambda line: line.charge)
        other = self._other_work(lines)
        if other and self._slack >= 0:
            return other
        return self._step(lines) or other

    def advance(self, batch: Batch) -> None:
        """Take note of a batch that ran: rows past their last step go to be decoded, decoded ones leave."""
        took = self._clock() - self._began
        self._slack = took if batch.phase is Phase.DENOISE else self._slack - took
        if batch.phase is Phase.DECODE:
            for request in batch.requests:
                self.discard(request)
        else:
            going_on = tuple(filter(self._goes_on, batch.requests))
            self._running = going_on if batch.phase is Phase.DENOISE else self._running

    def _goes_on(self, request: Request) -> bool:
        """Whether a request that ran has steps to go."""
        line = self._lines[request.service_class]
        if request not in line:
            return False
        if request.phase is Phase.DECODE:
            line.discard(request)
            self._decoding[request] = None
            return False
        line.stepped(request)
        return True

    def _other_work(self, lines: list[Line]) -> Batch | None:
        """A picture to decode, or a picture or the prompts of one whose turn is next."""
        if self._decoding:
            return Batch(Phase.DECODE, (next(iter(self._decoding)),))
        for row in self._fill(lines[0], lines[0].due()) if lines else ():
            if row.phase in (Phase.READ, Phase.ENCODE):
                return Batch(row.phase, (row,))
        return None

    def _step(self, lines: list[Line]) -> Batch | None:
        """A step of the first batch that is ready or has begun, else of the one that ran last."""
        for line in lines:
            first = line.due()
            rows = self._fill(line, first)
            ready = tuple(row for row in rows if row.phase is Phase.DENOISE)
            if ready == rows or any(row.step_index for row in ready):
                return self._lead(line, ready)
        for row in self._running:
            line = self._lines[row.service_class]
            if row in line:
                rows = self._fill(line, row)
                return self._lead(line, tuple(row for row in rows if row.phase is Phase.DENOISE))
        return None

    def _lead(self, leader: Line, rows: tuple[Request, ...]) -> Batch:
        batch = Batch(Phase.DENOISE, rows)
        self._now = min(line.charge for line in self._lines.values() if line)
        leader.charge += batch.image_tokens / leader.weight
        leader.took_turn(rows[0])
        return batch

    def _fill(self, leader: Line, first: Request) -> tuple[Request, ...]:
        others = sorted((line for line in self._lines.values() if line is not leader), key=lambda line: -line.weight)
        candidates = chain.from_iterable(line.with_key(first.batch_key) for line in (leader, *others))
        mates = (request for request in candidates if request is not first)
        return first, *islice(mates, max(0, self.max_batch_tokens // first.image_tokens - 1))
